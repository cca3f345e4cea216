// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both halves as one model.

pub mod actions;
pub mod world;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};
use vsva_model::front_end::Rules;

pub use actions::Action;
pub use world::{seen, Budget, World};

/// More states than any model here has: a fault of the model itself, not of the rules.
const STATES_MAX: NonZeroUsize = NonZeroUsize::new(20_000_000).unwrap();

#[derive(Debug)]
pub struct Both {
    rules: Rules,
    budget: Budget,
    seen: Arc<AtomicU32>,
}

impl Model for Both {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.rules, self.budget)]
    }

    fn actions(&self, world: &World, out: &mut Vec<Action>) {
        world.actions(out);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.step(action);
        next.core = next.core.canonical();
        // Not a part of the state, or it would be a history.
        self.seen
            .fetch_or(std::mem::take(&mut next.seen), Ordering::Relaxed);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no rule is broken", |_, world: &World| world.bad.is_none()),
            Property::always("nothing is stuck", |model, world: &World| {
                let mut actions = Vec::new();
                model.actions(world, &mut actions);
                let ends = actions
                    .into_iter()
                    .all(|action| model.next_state(world, action).is_none());
                world.bad.is_some() || !ends || world.stuck().is_none()
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

/// Explores everything that can happen within `budget`.
pub fn explore(rules: Rules, budget: Budget) -> Found {
    let start = Instant::now();
    let seen = Arc::new(AtomicU32::new(0));
    let both = Both {
        rules,
        budget,
        seen: seen.clone(),
    };
    let checker = both
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(STATES_MAX.get())
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    println!(
        "{states} states, depth {}, {:.1?}",
        checker.max_depth(),
        start.elapsed()
    );
    let path = checker.discoveries().into_values().next();
    let wrong = path.map(|path| {
        let last = path.last_state().clone();
        let what = last.bad.clone().or(last.stuck().map(str::to_owned));
        let what = what.unwrap_or_default();
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
