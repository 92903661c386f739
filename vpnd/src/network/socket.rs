//! Sockets whose packets carry the mark.
