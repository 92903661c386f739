//! Through an HTTP proxy to a gateway: CONNECT (RFC 9110 §9.3.6) with HTTP/1.1, basic authentication (RFC 7617).

use std::{fmt, io, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{StatusCode, uri::Authority};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::session::printable;

/// How long the proxy may take to answer; it connects to the gateway meanwhile.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest head of an answer in bytes that is read, interim answers included.
pub const MAX_HEAD: usize = 16 * 1024;

/// Asks the proxy at the other end of `io` for a connection to `authority`, a host and a port, and gives `io` back: from
/// then on it leads there. No byte that comes after the answer's head is taken off it.
///
/// # Errors
/// [`ProxyError`]; the connection to the proxy is closed then.
pub async fn connect<T>(io: T, authority: &str, credentials: Option<&Credentials>) -> Result<T, ProxyError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    connect_within(ANSWER_TIMEOUT, io, authority, credentials).await
}

/// A user's name and password, wiped from memory when dropped.
#[derive(Clone)]
pub struct Credentials(Zeroizing<Vec<u8>>);

impl Credentials {
    /// For basic authentication.
    ///
    /// # Errors
    /// [`ProxyError::BadCredentials`] when RFC 7617 §2 cannot carry them.
    pub fn basic(user: &str, password: &str) -> Result<Self, ProxyError> {
        if user.contains(|character: char| character == ':' || character.is_control()) {
            return Err(ProxyError::BadCredentials("the user name must contain no colon and no control character"));
        }
        if password.contains(char::is_control) {
            return Err(ProxyError::BadCredentials("the password must contain no control character"));
        }
        // Of their final size from the beginning: growing would leave copies behind.
        let size = user.len() + 1 + password.len();
        let mut pair = Zeroizing::new(Vec::with_capacity(size));
        for part in [user, ":", password] {
            pair.extend_from_slice(part.as_bytes());
        }
        let mut encoded = Zeroizing::new(vec![0; size.div_ceil(3) * 4]);
        match STANDARD.encode_slice(&*pair, &mut encoded) {
            Ok(_) => Ok(Self(encoded)),
            Err(_) => Err(ProxyError::BadCredentials("user name and password are too long")),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Why there is no way through the proxy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// There is no such destination.
    #[error("destination {0:?}: expected a host and a port")]
    BadAuthority(String),
    /// Basic authentication cannot carry these credentials.
    #[error("credentials for the proxy: {0}")]
    BadCredentials(&'static str),
    /// 407 to a request without credentials.
    #[error("the proxy wants credentials and none are configured; it offers: {offered}")]
    CredentialsNeeded {
        /// The schemes that it offers, with their realms.
        offered: String,
    },
    /// 407 or 401 to a request with credentials.
    #[error("the proxy did not accept the credentials")]
    Unauthorized,
    /// The proxy answered otherwise.
    #[error("the proxy refused: {status} {reason}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its words, empty if it gave none.
        reason: String,
    },
    /// What answered is no HTTP proxy.
    #[error("the proxy's answer is not HTTP/1: {0}")]
    Malformed(&'static str),
    /// No whole answer within [`ANSWER_TIMEOUT`].
    #[error("the proxy did not answer in time")]
    TimedOut,
    /// The connection to the proxy failed or ended.
    #[error("connection to the proxy: {0}")]
    Io(#[from] io::Error),
}

async fn connect_within<T>(
    patience: Duration,
    mut io: T,
    authority: &str,
    credentials: Option<&Credentials>,
) -> Result<T, ProxyError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let request = request(authority, credentials)?;
    let exchange = async {
        io.write_all(&request).await?;
        io.flush().await?;
        await_answer(&mut io).await
    };
    let answer = tokio::time::timeout(patience, exchange).await.map_err(|_| ProxyError::TimedOut)??;
    if answer.status.is_success() {
        return Ok(io);
    }
    Err(match answer.status {
        // tinyproxy tells wrong credentials by 401.
        StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::UNAUTHORIZED if credentials.is_some() => {
            ProxyError::Unauthorized
        }
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => ProxyError::CredentialsNeeded { offered: answer.offered },
        status => ProxyError::Refused { status, reason: answer.reason },
    })
}

fn request(authority: &str, credentials: Option<&Credentials>) -> Result<Zeroizing<Vec<u8>>, ProxyError> {
    let is_valid = match authority.parse::<Authority>() {
        Ok(parsed) => parsed.port_u16().is_some() && !parsed.host().is_empty() && !authority.contains('@'),
        Err(_) => false,
    };
    if !is_valid {
        return Err(ProxyError::BadAuthority(authority.into()));
    }
    let authorization: [&[u8]; 3] = match credentials {
        Some(Credentials(encoded)) => [b"Proxy-Authorization: Basic ", encoded, b"\r\n"],
        None => [b""; 3],
    };
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    let parts = [[head.as_bytes()].as_slice(), &authorization, &[b"\r\n"]].concat();
    // Of its final size from the beginning: growing would leave copies of the credentials behind.
    let mut out = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        out.extend_from_slice(part);
    }
    Ok(out)
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    reason: String,
    /// What its Proxy-Authenticate fields say.
    offered: String,
}

async fn await_answer(io: &mut (impl AsyncRead + Unpin)) -> Result<Answer, ProxyError> {
    let mut left = MAX_HEAD;
    loop {
        let head = read_head(io, left).await?;
        left -= head.len();
        let answer = parse(&head)?;
        if !answer.status.is_informational() {
            return Ok(answer);
        }
    }
}

/// Reads up to the empty line and no byte further: what follows is the gateway's.
async fn read_head(io: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Vec<u8>, ProxyError> {
    let mut head = Vec::new();
    while !head.ends_with(b"\n\r\n") && !head.ends_with(b"\n\n") {
        if head.len() == limit {
            return Err(ProxyError::Malformed("its head is too long"));
        }
        head.push(io.read_u8().await?);
    }
    Ok(head)
}

fn parse(head: &[u8]) -> Result<Answer, ProxyError> {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let status_line = lines.next().unwrap_or_default();
    let (version, rest) = status_line.split_at_checked(9).ok_or(ProxyError::Malformed("no status line"))?;
    if !(version.starts_with(b"HTTP/1.") && version[7].is_ascii_digit() && version[8] == b' ') {
        return Err(ProxyError::Malformed("no status line"));
    }
    let (status, reason) = rest.split_at_checked(3).ok_or(ProxyError::Malformed("no status"))?;
    let status = StatusCode::from_bytes(status).map_err(|_| ProxyError::Malformed("status is not three digits"))?;
    if !matches!(reason.first(), None | Some(b' ')) {
        return Err(ProxyError::Malformed("status is not three digits"));
    }
    let offered: Vec<String> = lines.filter_map(offer).collect();
    Ok(Answer { status, reason: printable(reason.trim_ascii()), offered: offered.join(", ") })
}

fn offer(line: &[u8]) -> Option<String> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at(colon);
    name.eq_ignore_ascii_case(b"proxy-authenticate").then(|| printable(value[1..].trim_ascii()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use tokio::io::DuplexStream;

    use super::*;

    /// What comes of it when the proxy answers with these bytes, and what the proxy got.
    async fn asked(answer: &[u8], credentials: Option<&Credentials>) -> (Result<DuplexStream, ProxyError>, String) {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let answering = async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(far.read_u8().await.unwrap());
            }
            far.write_all(answer).await.unwrap();
            String::from_utf8(request).unwrap()
        };
        tokio::join!(connect(near, "gateway.example:443", credentials), answering)
    }

    #[tokio::test]
    async fn the_first_bytes_of_the_gateway_are_not_lost() {
        for head in [
            &b"HTTP/1.1 200 Connection established\r\n\r\n"[..],
            b"HTTP/1.0 200\r\nVia: x\r\n\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 5\n\n",
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            let (way, request) = asked(&[head, b"\r\n\r\nhello"].concat(), None).await;
            assert_eq!(request, "CONNECT gateway.example:443 HTTP/1.1\r\nHost: gateway.example:443\r\n\r\n");
            let mut rest = Vec::new();
            way.unwrap().read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"\r\n\r\nhello");
        }
    }

    #[tokio::test]
    async fn credentials_are_those_of_rfc_7617() {
        let credentials = Credentials::basic("Aladdin", "open sesame").unwrap();
        let (way, request) = asked(b"HTTP/1.1 200 OK\r\n\r\n", Some(&credentials)).await;
        way.unwrap();
        assert!(request.contains("\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"), "{request}");
        let utf8 = Credentials::basic("test", "123\u{a3}").unwrap();
        assert_eq!(utf8.0.as_slice(), b"dGVzdDoxMjPCow==");
        assert_eq!(format!("{credentials:?}"), "Credentials { .. }");
    }

    #[tokio::test]
    async fn refusals_say_what_is_wrong() {
        let needed = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"office\"\r\n\
            proxy-authenticate:Negotiate\r\n\r\n";
        let error = asked(needed, None).await.0.unwrap_err().to_string();
        assert!(error.ends_with("it offers: Basic realm=\"office\", Negotiate"), "{error}");
        let credentials = Credentials::basic("user", "wrong").unwrap();
        for answer in [&needed[..], b"HTTP/1.0 401 Unauthorized\r\n\r\n"] {
            assert!(matches!(asked(answer, Some(&credentials)).await.0, Err(ProxyError::Unauthorized)));
        }
        let error = asked(b"HTTP/1.1 403 Filtered\r\n\r\n", None).await.0.unwrap_err();
        assert_eq!(error.to_string(), "the proxy refused: 403 Forbidden Filtered");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        for answer in [
            &b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..],
            b"\r\n\r\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.1 20\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            &[b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; MAX_HEAD]].concat(),
            &b"HTTP/1.1 100 Continue\r\n\r\n".repeat(MAX_HEAD / 25 + 1),
        ] {
            let outcome = asked(answer, None).await.0;
            assert!(matches!(outcome, Err(ProxyError::Malformed(_))), "{outcome:?}");
        }
        let outcome = asked(b"HTTP/1.1 200 OK\r\n", None).await.0;
        assert!(matches!(outcome, Err(ProxyError::Io(_))), "{outcome:?}");
    }

    #[tokio::test]
    async fn silence_and_a_slow_drip_end_in_time() {
        let patience = Duration::from_millis(200);
        let (near, _far) = tokio::io::duplex(1024);
        let outcome = connect_within(patience, near, "gateway.example:443", None).await;
        assert!(matches!(outcome, Err(ProxyError::TimedOut)));
        let (near, mut far) = tokio::io::duplex(1024);
        let dripping = async {
            let mut drops = tokio::time::interval(patience / 20);
            loop {
                drops.tick().await;
                far.write_all(b"H").await.unwrap();
            }
        };
        let outcome = tokio::select! {
            outcome = connect_within(patience, near, "gateway.example:443", None) => outcome,
            () = dripping => unreachable!(),
        };
        assert!(matches!(outcome, Err(ProxyError::TimedOut)));
    }

    #[tokio::test]
    async fn bad_input_is_named() {
        for authority in ["gateway.example", "", ":443", "a@gateway.example:443", "a b:443", "a:443\r\nX: y", "a:99999"]
        {
            let (near, _far) = tokio::io::duplex(1024);
            let error = connect(near, authority, None).await.unwrap_err();
            assert!(matches!(&error, ProxyError::BadAuthority(named) if named == authority), "{error}");
        }
        assert!(request("[2001:db8::1]:443", None).is_ok());
        let error = Credentials::basic("a:b", "c").unwrap_err().to_string();
        assert!(error.contains("user name"), "{error}");
        let error = Credentials::basic("a", "secret\n").unwrap_err().to_string();
        assert!(error.contains("password") && !error.contains("secret"), "{error}");
    }

    proptest! {
        #[test]
        fn any_head_does_no_harm(head in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&head);
            let _ = parse(&[b"HTTP/1.1 ".as_slice(), &head].concat());
        }
    }
}
