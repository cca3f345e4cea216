// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A world, and everything that can happen to it, explored exhaustively.

use std::fmt::Debug;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};
use vhost_user_vsva::core::Core;

/// More states than any model here has: a fault of the model itself, not of the rules.
const STATES_MAX: NonZeroUsize = NonZeroUsize::new(20_000_000).unwrap();

/// All sides of a model as one state.
pub trait World: Clone + Debug + PartialEq + Hash + Send + Sync + 'static {
    type Action: Copy + Debug + PartialEq + Send + Sync + 'static;

    /// The back-end's core, which is part of it.
    fn core(&mut self) -> &mut Core<()>;

    fn notes(&self) -> &Notes;

    fn notes_mut(&mut self) -> &mut Notes;

    /// What can happen.
    fn actions(&self, out: &mut Vec<Self::Action>);

    /// It happens.
    fn step(&mut self, action: Self::Action);

    /// Nothing can happen any more, and that is bad.
    fn stuck(&self) -> Option<&'static str>;
}

/// What the checker is to know of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notes {
    /// What this step has reached, as bits. It is no part of the state, or it would be a history.
    pub seen: u32,
    /// A rule is broken.
    pub bad: Option<String>,
}

impl Notes {
    /// What was wrong first is kept.
    pub fn fail(&mut self, what: impl Into<String>) {
        self.bad.get_or_insert_with(|| what.into());
    }
}

#[derive(Debug)]
struct All<W> {
    init: W,
    seen: Arc<AtomicU32>,
}

impl<W: World> Model for All<W> {
    type State = W;
    type Action = W::Action;

    fn init_states(&self) -> Vec<W> {
        vec![self.init.clone()]
    }

    fn actions(&self, world: &W, out: &mut Vec<W::Action>) {
        if world.notes().bad.is_none() {
            world.actions(out);
        }
    }

    fn next_state(&self, world: &W, action: W::Action) -> Option<W> {
        let mut next = world.clone();
        next.step(action);
        // Afterwards states that behave in the same way are equal.
        let core = next.core();
        *core = core.clone().canonical();
        let seen = std::mem::take(&mut next.notes_mut().seen);
        self.seen.fetch_or(seen, Ordering::Relaxed);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no rule is broken", |_, world: &W| {
                world.notes().bad.is_none()
            }),
            Property::always("nothing is stuck", |model, world: &W| {
                if world.notes().bad.is_some() || world.stuck().is_none() {
                    return true;
                }
                let mut actions = Vec::new();
                model.actions(world, &mut actions);
                actions
                    .into_iter()
                    .any(|action| model.next_state(world, action).is_some())
            }),
        ]
    }
}

/// What was found.
pub struct Found {
    pub seen: u32,
    /// What is wrong.
    pub wrong: Option<String>,
}

/// Explores everything that can happen from `init` on.
pub fn explore<W: World>(init: W) -> Found {
    let start = Instant::now();
    let seen = Arc::new(AtomicU32::new(0));
    let all = All {
        init,
        seen: seen.clone(),
    };
    let checker = all
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(STATES_MAX.get())
        .spawn_bfs()
        .join();
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    println!(
        "{name}: {} states, depth {}, {:.1?}",
        checker.unique_state_count(),
        checker.max_depth(),
        start.elapsed()
    );
    let path = checker.discoveries().into_values().next();
    let wrong = path.map(|path| {
        let last = path.last_state().clone();
        let bad = last.notes().bad.as_deref();
        let what = bad.or(last.stuck()).unwrap_or_default().to_owned();
        println!("{what}:");
        for step in path.into_actions() {
            println!("  {step:?}");
        }
        what
    });
    assert!(
        wrong.is_some() || checker.state_count() < STATES_MAX.get(),
        "not all was explored"
    );
    Found {
        seen: seen.load(Ordering::Relaxed),
        wrong,
    }
}

/// Everything in `reached` has happened somewhere, and nothing is wrong anywhere.
pub fn assert_kept<W: World>(init: W, reached: u32, names: &[(u32, &str)]) {
    let found = explore(init);
    assert_eq!(found.wrong, None);
    let missing: Vec<&str> = names
        .iter()
        .filter(|(bit, _)| reached & !found.seen & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    assert_eq!(missing, [""; 0], "never happened");
}

/// Something goes wrong, and it is this.
pub fn assert_found<W: World>(init: W, wrong: &str) {
    let what = explore(init).wrong.unwrap_or_default();
    assert!(what.contains(wrong), "found: {what:?}");
}
