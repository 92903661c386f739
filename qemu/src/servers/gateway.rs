use std::{
    fs,
    io::{Read, Write},
    net::Ipv6Addr,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use crate::{
    ChildHandle, LabError, Manager, Node, Result,
    addresses::{
        COMPANY_NETWORKS, GATEWAY_NAME, GATEWAY_V4, GATEWAY_V6, GATEWAY2_NAME, GATEWAY2_V4, GATEWAY2_V6, MANAGER_V4,
        POOL_V4, POOL_V6,
    },
    holder::{Holder, WORK_DIR},
    programs::Programs,
};

const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9184);
const METRICS_LIMIT: Duration = Duration::from_secs(5);

/// The gateway that every lab has.
pub(crate) const FIRST: Place = Place { number: 1, name: GATEWAY_NAME, v4: GATEWAY_V4, v6: GATEWAY_V6 };
/// The one beside it.
pub(crate) const SECOND: Place = Place { number: 2, name: GATEWAY2_NAME, v4: GATEWAY2_V4, v6: GATEWAY2_V6 };

/// How devices reach a gateway, and which of the pool's addresses is its own.
#[derive(Debug)]
pub(crate) struct Place {
    number: u32,
    name: &'static str,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// `m2m-gateway` on the lab's host `gateway`, reached as `https://gateway.example`, or on the host `gateway2`.
#[derive(Debug)]
pub struct Gateway {
    node: Node,
    program: String,
    configuration: PathBuf,
    server: Option<ChildHandle>,
}

/// A connected device, from the gateway's `/sessions`.
#[derive(Debug, Clone)]
pub struct Session {
    /// Everything that the gateway says of it.
    pub json: Value,
}

impl Gateway {
    /// Gets a certificate from the manager and writes the configuration.
    pub(crate) fn create(
        holder: &Arc<Holder>,
        node: &Node,
        place: &Place,
        several: bool,
        manager: &Manager,
    ) -> Result<Self> {
        let host = node.name();
        let identity = format!("{WORK_DIR}/{host}-identity");
        let (v4, v6) = (place.v4.to_string(), place.v6.to_string());
        let names = ["--name", place.name, "--name", &v4, "--name", &v6];
        let mut words = vec!["gateway", "issue", "--out", &identity];
        words.extend(names);
        manager.command(&words)?.ok()?;

        let read = |name: &str| {
            let path = holder.outside(format!("{identity}/{name}"));
            fs::read_to_string(&path).map_err(LabError::io(format!("read {}", path.display())))
        };
        let issuers = format!("{}{}", read("root.pem")?, issuing_certificate(&read("chain.pem")?));
        let client_ca = node.write_file(&format!("{host}-client-ca.pem"), &issuers)?;
        let [company_v4, company_v6] = COMPANY_NETWORKS;
        let text = format!(
            "state_dir = \"{WORK_DIR}/{host}\"
client_ca = \"{}\"
routes = [\"{company_v4}\", \"{company_v6}\"]

[identity]
certificate = \"{identity}/chain.pem\"
key = \"{identity}/key.pem\"

[crl]
url = \"https://{MANAGER_V4}:{}/crl.der\"
refresh_s = 2

[pool]
ipv4 = \"{POOL_V4}\"
ipv6 = \"{POOL_V6}\"
{}",
            client_ca.display(),
            manager.port(),
            if several { one_of_several(holder, node, place.number)? } else { String::new() },
        );
        Ok(Self {
            node: node.clone(),
            program: Programs::find()?.path("m2m-gateway")?,
            configuration: node.write_file(&format!("{host}.toml"), &text)?,
            server: None,
        })
    }

    /// Starts the server and waits until it serves.
    ///
    /// # Errors
    /// When it ends.
    pub fn start(&mut self) -> Result<()> {
        let mut command = self.node.command(&self.program);
        command.arg("--config").arg(&self.configuration);
        let mut server = self.node.spawn(self.node.name(), &mut command)?;
        let serving = self.node.wait_for_tcp(METRICS);
        server.must_run()?;
        serving?;
        self.server = Some(server);
        Ok(())
    }

    /// Stops the server in order.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.stop();
        }
    }

    /// Ends the server as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill();
        }
    }

    /// Devices that are connected now.
    ///
    /// # Errors
    /// When the gateway does not answer or its JSON is not as expected.
    pub fn sessions(&self) -> Result<Vec<Session>> {
        let text = self.get("/sessions")?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| LabError::answer("the gateway's sessions", error.to_string()))?;
        let list = value.as_array().or_else(|| value.get("sessions")?.as_array());
        let list = list.ok_or_else(|| LabError::answer("the gateway's sessions", text.clone()))?;
        Ok(list.iter().map(|json| Session { json: json.clone() }).collect())
    }

    /// The Prometheus metrics.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub fn metrics(&self) -> Result<String> {
        self.get("/metrics")
    }

    /// Resident memory of the server in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        self.server.as_ref()?.resident_bytes()
    }

    /// Everything the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.as_ref().map(ChildHandle::log).unwrap_or_default()
    }

    fn get(&self, path: &str) -> Result<String> {
        let answer = self.node.within(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&METRICS, METRICS_LIMIT)?;
            stream.set_read_timeout(Some(METRICS_LIMIT))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        let answer = answer.map_err(LabError::io(format!("get {path} from the gateway")))?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
            _ => Err(LabError::answer(format!("the gateway's {path}"), answer)),
        }
    }
}

/// The end of the table `[pool]` and the table `[routing]` of a gateway that shares its address book, which the first one begins.
fn one_of_several(holder: &Holder, node: &Node, number: u32) -> Result<String> {
    if !holder.outside(format!("{WORK_DIR}/{BOOK}")).is_file() {
        node.write_file(BOOK, r#"{"version":1,"devices":{}}"#)?;
    }
    Ok(format!(
        "book = \"{WORK_DIR}/{BOOK}\"
gateway = {number}
reserved = 16

[routing]
inject = \"host-routes\"
"
    ))
}

const BOOK: &str = "site/addresses.json";

/// The last certificate of a chain.
fn issuing_certificate(chain: &str) -> &str {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    chain.rfind(BEGIN).map_or("", |start| &chain[start..])
}
