//! The chapters of the story, in order. Every step either holds or ends it.

mod audit;
mod company;
mod first_boot;
mod second_boot;
mod stranger;
mod trouble;

use crate::story::Story;

/// Steps of the whole story, those of [`Story::begin`] included.
pub(crate) const COUNT: usize = 33;

pub(crate) fn tell(story: &mut Story) -> anyhow::Result<()> {
    first_boot::tell(story)?;
    company::tell(story)?;
    trouble::tell(story)?;
    second_boot::tell(story)?;
    stranger::tell(story)?;
    audit::tell(story)
}
