//! Through Debian's tinyproxy with basic authentication to a gateway.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
};

use m2m_tunnel::proxy::{self, Credentials, ProxyError};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    ends::{packets, soon, tunnel_over},
    tls::{Tls, listener},
};

/// A proxy of one's own that lets user `device` with password `open-sesame` through to one port.
struct Proxy {
    address: SocketAddr,
    process: Child,
    _files: TempDir,
}

impl Proxy {
    async fn start(allowed: u16) -> Self {
        let files = tempfile::tempdir().unwrap();
        let port = free_port().await;
        let config = files.path().join("tinyproxy.conf");
        let lines = [
            format!("Port {port}"),
            "Listen 127.0.0.1".into(),
            "Allow 127.0.0.1".into(),
            "Timeout 30".into(),
            format!("LogFile \"{}\"", files.path().join("log").display()),
            "BasicAuth device open-sesame".into(),
            format!("ConnectPort {allowed}"),
        ];
        fs::write(&config, lines.join("\n") + "\n").unwrap();
        let process = Command::new("tinyproxy")
            .args(["-d", "-c"])
            .arg(&config)
            .stdout(Stdio::null())
            .spawn()
            .expect("tinyproxy is needed: apt-get install tinyproxy-bin");
        let proxy = Self { address: (Ipv4Addr::LOCALHOST, port).into(), process, _files: files };
        soon(async {
            while proxy.reach().await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        proxy
    }

    async fn reach(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(self.address).await
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It fails only when the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn free_port() -> u16 {
    listener().await.local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_through_tinyproxy() {
    let (tls, listener) = (Tls::new(true), listener().await);
    let port = listener.local_addr().unwrap().port();
    let gateway = format!("127.0.0.1:{port}");
    let proxy = Proxy::start(port).await;

    let error = soon(proxy::connect(proxy.reach().await.unwrap(), &gateway, None)).await.unwrap_err();
    assert!(matches!(&error, ProxyError::CredentialsNeeded { offered } if offered.starts_with("Basic")), "{error}");
    let wrong = Credentials::basic("device", "open").unwrap();
    let error = soon(proxy::connect(proxy.reach().await.unwrap(), &gateway, Some(&wrong))).await.unwrap_err();
    assert!(matches!(error, ProxyError::Unauthorized), "{error}");

    let right = Credentials::basic("device", "open-sesame").unwrap();
    let elsewhere = format!("127.0.0.1:{}", free_port().await);
    let error = soon(proxy::connect(proxy.reach().await.unwrap(), &elsewhere, Some(&right))).await.unwrap_err();
    assert!(matches!(&error, ProxyError::Refused { status, .. } if *status == 403), "{error}");

    let way = soon(proxy::connect(proxy.reach().await.unwrap(), &gateway, Some(&right))).await.unwrap();
    let (near, far) = soon(async { tokio::join!(tls.connect(way), tls.accept(&listener)) }).await;
    let (client, server) = tunnel_over(near.unwrap(), far.unwrap()).await;
    let (mut sender, mut receiver) = (client.sender, server.receiver);
    let _rest = (client.receiver, server.sender);
    let sent: Vec<Vec<u8>> = (0..1000_usize).map(|index| vec![index as u8; 1300]).collect();
    soon(sender.send_packets(sent.iter().map(Vec::as_slice))).await.unwrap();
    assert!(packets(&mut receiver, sent.len()).await.iter().eq(&sent));
}
