use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{LabError, Result};

const LIMIT: Duration = Duration::from_secs(10);

/// Sends one command to QEMU's monitor (QEMU Machine Protocol) and returns its result.
///
/// # Errors
/// When QEMU does not answer or refuses.
pub(super) fn execute(socket: &Path, command: &str, arguments: Value) -> Result<Value> {
    let connect = || -> std::io::Result<(BufReader<UnixStream>, UnixStream)> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok((BufReader::new(stream.try_clone()?), stream))
    };
    let (mut reader, mut writer) = connect().map_err(LabError::io("connect to QEMU's monitor"))?;
    let greeting = message(&mut reader)?;
    if greeting.get("QMP").is_none() {
        return Err(LabError::answer("QEMU's monitor", format!("greets with {greeting}")));
    }
    request(&mut reader, &mut writer, &json!({"execute": "qmp_capabilities"}))?;
    request(&mut reader, &mut writer, &json!({"execute": command, "arguments": arguments}))
}

fn request(reader: &mut impl BufRead, writer: &mut impl Write, request: &Value) -> Result<Value> {
    writeln!(writer, "{request}").map_err(LabError::io("write to QEMU's monitor"))?;
    loop {
        let mut answer = message(reader)?;
        if let Some(result) = answer.get_mut("return") {
            return Ok(result.take());
        }
        if answer.get("event").is_none() {
            return Err(LabError::answer("QEMU's monitor", format!("{request} gets {answer}")));
        }
    }
}

fn message(reader: &mut impl BufRead) -> Result<Value> {
    let mut line = String::new();
    reader.read_line(&mut line).map_err(LabError::io("read from QEMU's monitor"))?;
    serde_json::from_str(&line).map_err(|error| LabError::answer("QEMU's monitor", error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn events_before_the_answer_are_skipped() {
        let mut input = "{\"event\": \"RESUME\"}\n{\"return\": {\"status\": \"running\"}}\n".as_bytes();
        let mut sent = Vec::new();
        let result = request(&mut input, &mut sent, &json!({"execute": "query-status"})).unwrap();
        assert_eq!(result, json!({"status": "running"}));
        assert_eq!(sent, b"{\"execute\":\"query-status\"}\n");
    }

    #[test]
    fn a_refusal_is_an_error() {
        let mut input = "{\"error\": {\"class\": \"CommandNotFound\"}}\n".as_bytes();
        assert!(request(&mut input, &mut Vec::new(), &json!({"execute": "x"})).is_err());
    }
}
