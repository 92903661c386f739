//! Streams for tests, cut anywhere.

use proptest::{collection, prelude::*, sample::Index};

/// Where a stream's bytes are cut.
#[derive(Debug)]
pub(crate) struct Cuts(Vec<Index>);

/// Up to eight cuts anywhere, some of them in the same place.
pub(crate) fn any_cuts() -> impl Strategy<Value = Cuts> {
    collection::vec(any::<Index>(), 0..8).prop_map(Cuts)
}

impl Cuts {
    /// The pieces of `bytes`, in order. They may be empty.
    pub(crate) fn pieces<'a>(&self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<usize> = self.0.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }
}
