//! IP packets: what a tunnel endpoint must read and change in them.
