use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{LabError, Node, Result, service::Service};

const CONNECTION_LIMIT: Duration = Duration::from_secs(3);

/// The company's web server: one page with a token that cannot be guessed from elsewhere.
///
/// `/` is the page; `/stream` sends bytes until the client goes, for traffic that runs.
#[derive(Debug)]
pub struct WebServer {
    token: String,
    clients: Arc<Mutex<Vec<IpAddr>>>,
    stopped: Arc<AtomicBool>,
    _service: Service,
}

impl WebServer {
    /// Serves on port 80 of every address of a node.
    pub(crate) fn start(node: &Node, token: &str) -> Result<Self> {
        let listener = node.within(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)))?;
        let listener = listener.map_err(LabError::io("open the company's web server"))?;
        listener.set_nonblocking(true).map_err(LabError::io("set a socket to non-blocking"))?;
        let clients = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let (page, seen) = (format!("m2mvpn lab {token}\n"), Arc::clone(&clients));
        let service = Service::start("web", move || {
            let (stream, client) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) => {
                    thread::sleep(Duration::from_millis(20));
                    return Err(error);
                }
            };
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(plain(client));
            let (page, stop) = (page.clone(), Arc::clone(&stop));
            thread::spawn(move || answer(stream, &page, &stop));
            Ok(())
        });
        Ok(Self { token: token.to_owned(), clients, stopped, _service: service })
    }

    /// The text that only somebody who has read the page knows.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Addresses of all clients so far, in order.
    #[must_use]
    pub fn clients(&self) -> Vec<IpAddr> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

fn plain(client: SocketAddr) -> IpAddr {
    client.ip().to_canonical()
}

fn answer(stream: TcpStream, page: &str, stopped: &AtomicBool) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(CONNECTION_LIMIT))?;
    stream.set_write_timeout(Some(CONNECTION_LIMIT))?;
    let mut reader = BufReader::new((&stream).take(8192));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let mut stream = &stream;
    match request.split_whitespace().nth(1) {
        Some("/") => write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
            page.len()
        ),
        Some("/stream") => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")?;
            while !stopped.load(Ordering::Relaxed) {
                stream.write_all(page.as_bytes())?;
                thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        }
        _ => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    }
}
