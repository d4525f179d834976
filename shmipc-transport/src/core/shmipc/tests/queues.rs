//! Queues, and who is woken.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::core::{
    shmipc::{Element, InvalidShmipc},
    sync::{model, thread},
};

const LAYOUTS: [QueueLayout; 2] = [QueueLayout::Legacy, QueueLayout::Aligned];

fn element(stream: u32) -> Element {
    Element {
        stream,
        offset: stream * 3,
        status: stream % 2,
    }
}

/// What a side sleeps on. If nobody rings, the scenario never ends, which loom reports.
#[derive(Default)]
struct Doorbell {
    rung: thread::Mutex<bool>,
    wake: thread::Condvar,
}

impl Doorbell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.wake.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.wake.wait(rung).unwrap();
        }
        *rung = false;
    }
}

#[test]
fn hazard_h5_c7_no_element_is_slept_through() {
    const COUNT: u32 = 2;
    model(|| {
        let memory = TestMemory::new(2 * (24 + 12 * 4));
        memory.set(0, 4);
        memory.set(72, 4);
        let [one, other] =
            [(); 2].map(|()| Queues::open(memory.clone(), QueueLayout::Aligned).unwrap());
        let doorbell = Arc::new(Doorbell::default());
        let producing = Arc::clone(&doorbell);
        let mut producer = one.to_server.into_producer();
        let writer = thread::spawn(move || {
            for stream in 1..=COUNT {
                producer.put(element(stream));
                if producer.must_wake() {
                    producing.ring();
                }
            }
        });
        let mut consumer = other.to_server.into_consumer();
        for stream in 1..=COUNT {
            let taken = loop {
                if let Some(taken) = consumer.take().unwrap() {
                    break taken;
                }
                if consumer.arm() {
                    doorbell.sleep();
                }
                consumer.disarm();
            };
            assert_eq!(taken, element(stream));
        }
        writer.join().unwrap();
    });
}

#[test]
#[cfg(not(shmipc_loom))]
fn a_consumer_that_looks_is_not_woken() {
    let (_, client, server) = queues(16, QueueLayout::Aligned);
    let mut producer = client.to_server.into_producer();
    let mut consumer = server.to_server.into_consumer();
    consumer.disarm();
    producer.put(element(1));
    assert!(!producer.must_wake());
    assert_eq!(consumer.take(), Ok(Some(element(1))));
    assert!(consumer.arm(), "nothing is left");
    producer.put(element(2));
    assert!(producer.must_wake());
    assert!(!producer.must_wake(), "once is enough");
    assert!(!consumer.arm(), "something is there");
}

#[test]
#[cfg(not(shmipc_loom))]
fn hazard_h6_s4_counters_of_64_bits_are_carried_over() {
    for layout in LAYOUTS {
        let (memory, ..) = queues(16, layout);
        // A queue that has been used for long: both counters are just below 2³².
        let (head, tail) = match layout {
            QueueLayout::Legacy => (4, 12),
            QueueLayout::Aligned => (8, 16),
        };
        for at in [head, tail] {
            memory.set(at, u32::MAX - 2);
        }
        let [client, server] = [(); 2].map(|()| Queues::open(memory.clone(), layout).unwrap());
        let mut producer = client.to_server.into_producer();
        let mut consumer = server.to_server.into_consumer();
        for stream in 0..6 {
            producer.put(element(stream));
            assert_eq!(consumer.take(), Ok(Some(element(stream))));
        }
        let full = |at| u64::from(memory.get(at)) | u64::from(memory.get(at + 4)) << 32;
        assert_eq!((full(head), full(tail)), ((1 << 32) + 3, (1 << 32) + 3));
        assert_eq!(
            (producer.published(), consumer.consumed()),
            (full(tail), full(head))
        );
    }
}

#[test]
fn hazard_h6_no_counter_of_ours_lies_across_cache_lines() {
    for cap in 1..2000 {
        let half = QueuePlan::new(cap).len() / 2;
        for counter in [4, 12] {
            assert!((half + counter) % 64 <= 56, "of a queue of {cap} elements");
        }
    }
}

#[test]
#[cfg(not(shmipc_loom))]
fn hazard_h20_v1_impossible_queues_are_refused() {
    for (len, caps) in [
        (8, [1, 1]),
        (40, [0, 0]),
        (144, [0, 4]),
        (144, [4, 0]),
        (144, [5, 4]),
        (144, [4, 5]),
        (144, [u32::MAX, 4]),
        // 12 times this is 0 in 32 bits.
        (144, [1 << 30, 4]),
    ] {
        let memory = TestMemory::new(len);
        memory.set(0, caps[0]);
        memory.set(len / 2 / 4 * 4, caps[1]);
        for layout in LAYOUTS {
            Queues::open(memory.clone(), layout).unwrap_err();
        }
    }
}

#[test]
#[cfg(not(shmipc_loom))]
fn hazard_h20_cursors_that_cannot_be_end_the_session() {
    for layout in LAYOUTS {
        let (memory, client, server) = queues(16, layout);
        let mut producer = client.to_server.into_producer();
        let mut consumer = server.to_server.into_consumer();
        let (head, tail) = match layout {
            QueueLayout::Legacy => (4, 12),
            QueueLayout::Aligned => (8, 16),
        };
        memory.set(tail, 17);
        assert!(matches!(
            consumer.take(),
            Err(InvalidShmipc::QueueCursors { tail: 17, .. })
        ));
        memory.set(tail, u32::MAX);
        assert!(consumer.take().is_err());
        memory.set(head, 1);
        assert!(
            producer.refresh().is_err(),
            "nothing was there to be consumed"
        );
    }
}

#[test]
#[cfg(not(shmipc_loom))]
fn hazard_v2_counters_to_which_nobody_has_counted_are_refused() {
    const CAP: u64 = 16;
    for layout in LAYOUTS {
        let opened = |base: u32, [head, tail]: [u64; 2]| {
            let (memory, ..) = queues(16, layout);
            let (head_at, tail_at) = match layout {
                QueueLayout::Legacy => (4, 12),
                QueueLayout::Aligned => (8, 16),
            };
            for (at, counter) in [(head_at, head), (tail_at, tail)] {
                memory.set(base + at, counter as u32);
                memory.set(base + at + 4, (counter >> 32) as u32);
            }
            Queues::open(memory, layout)
        };
        let half = QueuePlan::new(16).len() / 2;
        for base in [0, half] {
            for counters in [
                [u64::MAX; 2],
                [1 << 63; 2],
                [u64::MAX - 1, u64::MAX],
                [u64::MAX, 0],
                [1, 0],
                [0, CAP + 1],
                [0, 1 << 32],
            ] {
                let [head, tail] = counters;
                assert_eq!(
                    opened(base, counters).unwrap_err(),
                    InvalidShmipc::QueueCounters { head, tail }
                );
            }
            for counters in [[0, CAP], [1 << 32, (1 << 32) + CAP]] {
                opened(base, counters).unwrap();
            }
        }
    }
}

#[test]
#[cfg(not(shmipc_loom))]
fn hazard_h20_a_capacity_is_read_once() {
    let (memory, client, server) = queues(16, QueueLayout::Aligned);
    let mut producer = client.to_server.into_producer();
    let mut consumer = server.to_server.into_consumer();
    memory.set(0, u32::MAX);
    for stream in 0..40 {
        producer.put(element(stream));
        assert_eq!(consumer.take(), Ok(Some(element(stream))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(shmipc_loom) { 0 } else { 256 }, ..Default::default() })]

    /// The oracle is a queue of 16 elements. The producer may learn of the last few that were consumed late, but of the last of all at
    /// once.
    #[test]
    fn queues_behave_like_a_bounded_queue(legacy: bool, ops: Vec<bool>) {
        const CAP: usize = 16;
        let (_, client, server) = queues(CAP as u32, LAYOUTS[usize::from(legacy)]);
        let mut producer = server.to_client.into_producer();
        let mut consumer = client.to_client.into_consumer();
        let mut oracle = VecDeque::new();
        for (stream, puts) in (0..).zip(ops) {
            if puts {
                let room = producer.room().unwrap() as usize;
                prop_assert!(room <= CAP - oracle.len());
                if room != 0 {
                    producer.put(element(stream));
                    oracle.push_back(element(stream));
                }
            } else {
                prop_assert_eq!(consumer.take(), Ok(oracle.pop_front()));
            }
            prop_assert_eq!(consumer.waiting(), Ok(oracle.len() as u32));
            let known = producer.refresh().unwrap() as usize;
            prop_assert!(oracle.len() <= known && known < oracle.len() + CAP / 4);
            prop_assert!(!oracle.is_empty() || known == 0);
        }
    }
}
