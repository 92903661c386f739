//! How a TPM is reached: the names that the configuration may give.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tss_esapi::tcti_ldr::TctiNameConf;

use super::TpmError;

/// A parsed name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Interface {
    /// A device node, with the kernel's resource manager or without.
    Device(TctiNameConf),
    /// An emulator at TCP ports.
    Ports(TctiNameConf),
    /// swtpm at a Unix socket.
    Socket(PathBuf),
}

impl Interface {
    /// Parses `tcti`. tss-esapi takes unknown fields for defaults, so that the fields are checked here.
    pub(super) fn parse(tcti: &str) -> Result<Self, TpmError> {
        let malformed = || TpmError::Tcti(tcti.to_owned());
        let name = || TctiNameConf::from_str(tcti).map_err(|_| malformed());
        let Some((kind, fields)) = tcti.split_once(':') else {
            return Err(malformed());
        };
        match kind {
            "device" if fields.starts_with('/') => Ok(Self::Device(name()?)),
            "swtpm" | "mssim" if fields.split(',').all(is_port_field) => Ok(Self::Ports(name()?)),
            "swtpm" => match fields.strip_prefix("path=") {
                Some(path) if path.starts_with('/') => Ok(Self::Socket(path.into())),
                _ => Err(malformed()),
            },
            _ => Err(malformed()),
        }
    }
}

fn is_port_field(field: &str) -> bool {
    matches!(field.split_once('='), Some(("host" | "port", value)) if !value.is_empty())
}

/// A relay from a pair of loopback ports to the emulator's Unix sockets `PATH` (data) and `PATH.ctrl` (control). tpm2-tss
/// connects to such sockets, but tss-esapi passes only host and port on to it. It serves tests alone: whoever may connect
/// to the loopback of the network namespace reaches the emulator. It ends when dropped.
#[derive(Debug)]
pub(super) struct Relay {
    port: u16,
    stop: Arc<AtomicBool>,
}

impl Relay {
    /// Starts the relay to the emulator at `path`.
    pub(super) fn start(path: &Path) -> io::Result<Self> {
        let control = PathBuf::from(format!("{}.ctrl", path.display()));
        for socket in [path, &control] {
            socket
                .metadata()
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", socket.display())))?;
        }
        let (data, control_listener) = listen()?;
        let relay = Self { port: data.local_addr()?.port(), stop: Arc::new(AtomicBool::new(false)) };
        for (listener, socket) in [(data, path.to_owned()), (control_listener, control)] {
            let stop = Arc::clone(&relay.stop);
            thread::Builder::new().name("tpm relay".to_owned()).spawn(move || accept(&listener, &socket, &stop))?;
        }
        Ok(relay)
    }

    /// The name of the relay's ports.
    pub(super) fn name(&self) -> Result<TctiNameConf, TpmError> {
        let tcti = format!("swtpm:host=127.0.0.1,port={}", self.port);
        TctiNameConf::from_str(&tcti).map_err(|_| TpmError::Tcti(tcti))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for port in [self.port, self.port + 1] {
            // Wakes the thread that accepts.
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        }
    }
}

/// Two successive ports, as the TCTI demands.
fn listen() -> io::Result<(TcpListener, TcpListener)> {
    const ATTEMPTS: u32 = 100;
    let mut attempt = 1;
    loop {
        let data = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let next = data.local_addr()?.port().saturating_add(1);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, next)) {
            Ok(control) => return Ok((data, control)),
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(_) => attempt += 1,
        }
    }
}

fn accept(listener: &TcpListener, socket: &Path, stop: &AtomicBool) {
    for tcp in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let relayed = tcp.and_then(|tcp| {
            tcp.set_nodelay(true)?;
            let unix = UnixStream::connect(socket)?;
            let (tcp_back, unix_back) = (tcp.try_clone()?, unix.try_clone()?);
            thread::spawn(move || {
                let _ = io::copy(&mut &tcp, &mut &unix);
                let _ = unix.shutdown(Shutdown::Write);
            });
            thread::spawn(move || {
                let _ = io::copy(&mut &unix_back, &mut &tcp_back);
                let _ = tcp_back.shutdown(Shutdown::Both);
            });
            Ok(())
        });
        if let Err(error) = relayed {
            log::warn!("the TPM emulator at {} is not reached: {error}", socket.display());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{
        io::{Read, Write},
        os::unix::net::UnixListener,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn each_form_is_told_apart() {
        let parse = |tcti| Interface::parse(tcti).unwrap();
        assert!(matches!(parse("device:/dev/tpmrm0"), Interface::Device(_)));
        assert!(matches!(parse("swtpm:host=127.0.0.1,port=2321"), Interface::Ports(_)));
        assert_eq!(parse("swtpm:path=/run/tpm.sock"), Interface::Socket("/run/tpm.sock".into()));
    }

    #[test]
    fn anything_else_is_refused_with_the_forms_that_are_known() {
        for tcti in [
            "",
            "device",
            "device:",
            "device:tpm0",
            "swtpm",
            "swtpm:path=tpm.sock",
            "swtpm:prot=2321",
            "swtpm:port=",
            "usb:/dev/tpm0",
        ] {
            let error = Interface::parse(tcti).unwrap_err();
            assert!(error.to_string().contains("device:/dev/tpmrm0"), "{tcti}");
        }
    }

    #[test]
    fn a_relay_to_no_emulator_is_refused_with_its_path() {
        let error = Relay::start(Path::new("/nonexistent/tpm.sock")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tpm.sock"));
    }

    #[test]
    fn a_relay_carries_both_channels_and_ends_when_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("tpm.sock");
        let control = directory.path().join("tpm.sock.ctrl");
        let emulator = [(&data, b"data"), (&control, b"ctrl")].map(|(path, greeting)| {
            let listener = UnixListener::bind(path).unwrap();
            thread::spawn(move || {
                let (mut client, _) = listener.accept().unwrap();
                let mut asked = [0; 1];
                client.read_exact(&mut asked).unwrap();
                client.write_all(greeting).unwrap();
            })
        });
        let relay = Relay::start(&data).unwrap();
        for (port, greeting) in [(relay.port, b"data"), (relay.port + 1, b"ctrl")] {
            let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            client.write_all(b"?").unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, greeting);
        }
        for channel in emulator {
            channel.join().unwrap();
        }

        let ports = [relay.port, relay.port + 1];
        drop(relay);
        let deadline = Instant::now() + Duration::from_secs(20);
        for port in ports {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                assert!(Instant::now() < deadline, "port {port} is still open");
                thread::yield_now();
            }
        }
    }
}
