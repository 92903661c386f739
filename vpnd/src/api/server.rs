//! The daemon's side of the local API.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use m2m_protocol::enrolment::Problem;
use nix::unistd::{Gid, Group, Uid, User, geteuid};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use super::{Board, Status};

/// The group whose members may do everything.
const GROUP: &str = "vpnd";

/// What somebody asked for over the API.
#[derive(Debug)]
pub enum Word {
    /// The tunnel; the sender is told when the daemon took note.
    Connect(oneshot::Sender<()>),
    /// No tunnel; the sender is told when the daemon took note.
    Disconnect(oneshot::Sender<()>),
}

/// The local API on its socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens on `path`, in place of a daemon that died. Everybody may connect: who may do what is decided by credentials.
    ///
    /// # Errors
    /// The file system's; a file at `path` that is no socket is left alone.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o666))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers until it is dropped. Words are passed on to the daemon's loop.
    pub async fn serve(self, board: Arc<Board>, words: mpsc::Sender<Word>) {
        let router = Router::new()
            .route("/v1/status", get(status))
            .route("/v1/connect", post(connect))
            .route("/v1/disconnect", post(disconnect))
            .fallback(|| async { problem(StatusCode::NOT_FOUND, "no such resource", "GET /v1/status is one") })
            .with_state(Api { board, words });
        let service = router.into_make_service_with_connect_info::<Peer>();
        if let Err(error) = axum::serve(self.listener, service).await {
            log::error!("the local API on {} ended: {error}", self.path.display());
        }
    }
}

#[derive(Debug, Clone)]
struct Api {
    board: Arc<Board>,
    words: mpsc::Sender<Word>,
}

/// Who is at the other end of a connection (`SO_PEERCRED`); `None` when the kernel does not say.
#[derive(Debug, Clone, Copy)]
struct Peer(Option<(Uid, Gid)>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        Self(credentials.map(|peer| (Uid::from_raw(peer.uid()), Gid::from_raw(peer.gid()))))
    }
}

impl Peer {
    fn may_do_everything(self) -> bool {
        let Some((uid, gid)) = self.0 else { return false };
        if uid.is_root() || uid == geteuid() {
            return true;
        }
        let Ok(Some(group)) = Group::from_name(GROUP) else { return false };
        if group.gid == gid {
            return true;
        }
        // The kernel tells the primary group only.
        User::from_uid(uid).is_ok_and(|user| user.is_some_and(|user| group.mem.contains(&user.name)))
    }
}

async fn status(State(api): State<Api>) -> Json<Status> {
    Json(api.board.status())
}

async fn connect(State(api): State<Api>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    pass_on(&api, peer, Word::Connect).await
}

async fn disconnect(State(api): State<Api>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    pass_on(&api, peer, Word::Disconnect).await
}

async fn pass_on(api: &Api, peer: Peer, word: impl FnOnce(oneshot::Sender<()>) -> Word) -> Response {
    if !peer.may_do_everything() {
        return problem(StatusCode::FORBIDDEN, "not allowed", "only root and members of group vpnd may do this");
    }
    let (noted, is_noted) = oneshot::channel();
    if api.words.send(word(noted)).await.is_err() || is_noted.await.is_err() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the daemon is about to end");
    }
    Json(api.board.status()).into_response()
}

fn problem(status: StatusCode, title: &str, detail: &str) -> Response {
    let problem = Problem { status: status.as_u16(), title: title.to_owned(), detail: Some(detail.to_owned()) };
    (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(problem)).into_response()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::client::{Call, CallError, call};

    /// A server in its own directory, and the words that reach the daemon.
    fn start() -> (tempfile::TempDir, PathBuf, mpsc::Receiver<Word>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/vpnd.sock");
        let (words, said) = mpsc::channel(1);
        tokio::spawn(Server::bind(&path).unwrap().serve(Arc::default(), words));
        (directory, path, said)
    }

    #[tokio::test]
    async fn words_reach_the_daemon_before_they_are_answered() {
        let (_directory, socket, mut said) = start();
        let (_, status) = call(&socket, Call::Status).await.unwrap();
        assert_eq!(status.state, crate::state::StateName::NotProvisioned);

        let asked = tokio::spawn(async move {
            let connect = call(&socket, Call::Connect).await;
            (connect, call(&socket, Call::Disconnect).await)
        });
        let Some(Word::Connect(noted)) = said.recv().await else { unreachable!() };
        noted.send(()).unwrap();
        let Some(Word::Disconnect(noted)) = said.recv().await else { unreachable!() };
        // The daemon is about to end.
        drop(noted);
        let (connect, disconnect) = asked.await.unwrap();
        assert!(connect.is_ok());
        assert!(matches!(disconnect, Err(CallError::Broken(text)) if text.contains("about to end")));
    }

    #[tokio::test]
    async fn a_socket_that_a_dead_daemon_left_is_replaced_and_a_file_is_not() {
        let (directory, socket, _said) = start();
        let second = Server::bind(&socket).unwrap();
        drop(second);
        assert!(matches!(call(&socket, Call::Status).await, Err(CallError::Unreachable { .. })));

        let file = directory.path().join("precious");
        std::fs::write(&file, "data").unwrap();
        assert!(Server::bind(&file).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"data");
    }

    #[test]
    fn strangers_may_only_look() {
        let stranger = |uid| Peer(Some((Uid::from_raw(uid), Gid::from_raw(65_534))));
        assert!(stranger(0).may_do_everything());
        assert!(stranger(geteuid().as_raw()).may_do_everything());
        assert!(!stranger(65_533).may_do_everything());
        assert!(!Peer(None).may_do_everything());
    }
}
