// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The back-end goes on where another process, or itself before its connection ended, was.

use std::sync::{atomic::Ordering, Arc};

use rustix::io::Errno;

use super::{
    published::{
        saving::{Found, Offer},
        shared_memory::SharedMemory,
    },
    shell::Shell,
};
use crate::{
    core::AttachError,
    recovery::{error::AreaError, layout::Layout, point},
};

/// What the reply says.
pub fn errno(error: &AreaError) -> Errno {
    match error {
        AreaError::Room { .. } => Errno::MSGSIZE,
        AreaError::Version(_) => Errno::OPNOTSUPP,
        _ => Errno::PROTO,
    }
}

impl Shell {
    /// The layout of a recovery area of this process.
    pub fn recovery_layout(&self) -> Layout {
        Layout::new(&self.core.look(|core| core.limits()))
    }

    /// Publishes the status in `memory`, and goes on from its recovery area if it has one.
    pub fn share_memory(&self, memory: SharedMemory) -> Result<(), AreaError> {
        let layout = self.recovery_layout();
        let may = |instance| match (instance == self.instance, self.core.is_saved()) {
            (true, false) => Err(AreaError::GivenUp),
            (false, _) if !self.core.is_fresh() => Err(AreaError::InUse),
            _ => Ok(()),
        };
        let Some(offer) = Offer::of(&memory, &layout, self.instance, may)? else {
            self.core.share(Some(memory));
            return Ok(());
        };
        if let Found::Left(image, _) = &offer.found {
            let own = image.instance == self.instance;
            log::info!(
                "recovery: {} channels, {} groups, {} faults of {} process",
                image.channels.len(),
                image.groups.len(),
                image.faults.len(),
                if own { "this" } else { "another" }
            );
        }
        point("recover");
        self.channels.abandon();
        self.core.go_on_from(memory, offer, self.instance);
        self.recovering.store(true, Ordering::Release);
        Ok(())
    }

    /// Ends a recovery, if one is under way and both rings run.
    pub fn go_on_if_enabled(&self) {
        if !self.recovering.load(Ordering::Acquire) || !self.rings_enabled() {
            return;
        }
        self.recovering.store(false, Ordering::Release);
        point("finish");
        if self.core.finish_recovery() {
            log::info!("recovery: done, the fault channels are read again");
        }
    }
}

impl super::channels::table::ChannelTable {
    /// Gives a channel that is about to be served its inbox, if there are any.
    pub fn give_inbox(
        &self,
        channel: &Arc<super::channels::open_channel::OpenChannel>,
        kernel: bool,
    ) -> Result<(), AttachError> {
        let inbox = self.core.open_inbox(channel.number, kernel);
        let inbox = inbox.map_err(|_| AttachError::TooManyChannels {
            channel: channel.number,
        })?;
        if let Some((inbox, saved)) = inbox {
            channel.use_inbox(inbox, saved);
        }
        Ok(())
    }

    /// A channel cannot be served: what was left in its inbox stays there.
    pub fn return_inbox(&self, channel: &super::channels::open_channel::OpenChannel) {
        let saved = channel.recovered();
        if let Some(slot) = channel.leave_inbox(saved.is_none()) {
            match saved {
                Some(saved) => self.core.put_inbox_back(saved),
                None => self.core.close_inbox(slot),
            }
        }
    }

    /// Closes all channels, as if the process had ended.
    fn abandon(&self) {
        for channel in self.open().by_number.values() {
            channel.faults.at_rest(|| channel.close());
            channel.leave_inbox(false);
            self.remove(channel);
        }
    }
}

#[cfg(test)]
mod tests;
