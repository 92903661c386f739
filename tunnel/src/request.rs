//! The CONNECT-IP request: its path, its scope, its header fields (RFC 9484 §3, §4).
