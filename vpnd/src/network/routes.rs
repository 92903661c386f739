//! The tunnel's routes and the rules that lead to them.
