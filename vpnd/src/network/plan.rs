//! Which addresses and routes a tunnel needs, without I/O.
