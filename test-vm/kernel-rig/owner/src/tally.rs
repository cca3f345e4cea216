// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the stalls of this check must have ended. The host compares it with the emulated SMMU's own
//! account.

use std::sync::atomic::{AtomicU64, Ordering};

static RETRIED: AtomicU64 = AtomicU64::new(0);
static ABORTED: AtomicU64 = AtomicU64::new(0);

/// So many stalls were answered by a retry.
pub fn retried(count: u64) {
    RETRIED.fetch_add(count, Ordering::Relaxed);
}

/// So many stalls were aborted, by an answer or by the kernel itself.
pub fn aborted(count: u64) {
    ABORTED.fetch_add(count, Ordering::Relaxed);
}

/// Tells the host.
pub fn report() {
    println!(
        "vsva-rig: expect retried={} aborted={}",
        RETRIED.load(Ordering::Relaxed),
        ABORTED.load(Ordering::Relaxed)
    );
}
