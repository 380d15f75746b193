use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const TENANT: TenantId = TenantId(Uuid::from_u128(1));

/// Computes a digest that is not cryptographic, which is enough for tests that do not search for
/// collisions.
fn fake_sha256(bytes: &[u8]) -> Digest {
    let mut state = [
        0xcbf2_9ce4_8422_2325_u64,
        0x9e37_79b9_7f4a_7c15,
        0x1234_5678_9abc_def1,
        7,
    ];
    for byte in bytes {
        for (lane, place) in state.iter_mut().zip(1u64..) {
            *lane = (*lane ^ u64::from(*byte) ^ place)
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(9);
        }
    }
    let mut digest = [0; 32];
    for (part, lane) in digest.chunks_mut(8).zip(state) {
        part.copy_from_slice(&lane.to_be_bytes());
    }
    digest
}

fn entry(number: i64) -> Entry {
    Entry {
        at: Timestamp::from_microsecond(1_790_000_000_000_000 + number).expect("a time"),
        actor: format!("key_{}", number % 3),
        action: "createMesh".into(),
        target: format!("mesh_{number}"),
        request_id: (number % 2 == 0).then(|| format!("request-{number}")),
        before: (number % 3 == 0).then_some([1; 32]),
        after: Some(fake_sha256(&number.to_be_bytes())),
    }
}

fn chain(entries: impl IntoIterator<Item = Entry>) -> Vec<ChainedEntry> {
    let mut head = GENESIS;
    let link = |entry: Entry| {
        let (linked, next) = entry.append_to_chain(TENANT, &head, fake_sha256);
        head = next;
        linked
    };
    entries.into_iter().map(link).collect()
}

fn verify_chain(chain: &[ChainedEntry], anchors: &[Anchor]) -> Result<ChainHead, ChainError> {
    let mut verifier = ChainVerifier::new(TENANT, anchors, fake_sha256);
    chain
        .iter()
        .try_for_each(|next| verifier.verify_next(next))?;
    verifier.verify_end()
}

fn anchor(of: &ChainedEntry) -> Anchor {
    Anchor {
        tenant: TENANT,
        seq: of.seq,
        hash: of.hash,
        at: of.entry.at,
    }
}

#[test]
fn an_honest_chain_is_fine_with_and_without_anchors() {
    let honest = chain((1..=20).map(entry));
    assert_eq!(verify_chain(&honest, &[]).map(|head| head.seq), Ok(20));
    assert_eq!(
        verify_chain(&honest, &[anchor(&honest[4]), anchor(&honest[19])]).map(|head| head.seq),
        Ok(20)
    );
    assert_eq!(verify_chain(&[], &[]), Ok(GENESIS));
}

#[test]
fn anchors_of_another_tenant_say_nothing() {
    let honest = chain((1..=3).map(entry));
    let other = Anchor {
        tenant: TenantId(Uuid::from_u128(2)),
        ..anchor(&honest[2])
    };
    assert!(verify_chain(&honest[..1], &[other]).is_ok());
}

/// Change that a person with the database's password can make.
#[derive(Debug, Clone)]
enum Attack {
    Change {
        at: usize,
        field: usize,
    },
    Remove {
        at: usize,
    },
    Insert {
        at: usize,
    },
    Swap {
        at: usize,
    },
    CutOff {
        at: usize,
    },
    /// All digests from this entry on are computed again, so that the chain is consistent.
    Rewrite {
        at: usize,
        field: usize,
    },
}

const LENGTH: usize = 24;
/// Number of the entry at which the last anchor was taken; entries after it are not proved.
const ANCHORED: usize = 18;

fn attack() -> impl Strategy<Value = Attack> {
    let at = 0..LENGTH;
    let field = 0usize..7;
    prop_oneof![
        (at.clone(), field.clone()).prop_map(|(at, field)| Attack::Change { at, field }),
        at.clone().prop_map(|at| Attack::Remove { at }),
        at.clone().prop_map(|at| Attack::Insert { at }),
        (0..LENGTH - 1).prop_map(|at| Attack::Swap { at }),
        at.clone().prop_map(|at| Attack::CutOff { at }),
        (at, field).prop_map(|(at, field)| Attack::Rewrite { at, field }),
    ]
}

fn corrupt_field(entry: &mut Entry, field: usize) {
    match field {
        0 => entry.at = Timestamp::from_microsecond(entry.at.as_microsecond() + 1).expect("a time"),
        1 => entry.actor.push('x'),
        2 => entry.action.push('x'),
        3 => entry.target.push('x'),
        4 => entry.request_id = Some(entry.request_id.take().map_or("x".into(), |id| id + "x")),
        5 => {
            entry.before = if entry.before.is_some() {
                None
            } else {
                Some([9; 32])
            }
        }
        _ => entry.after = None,
    }
}

/// Applies the attack, and returns the index from which the chain differs from the honest one.
fn apply_attack(honest: &[ChainedEntry], attack: &Attack) -> (Vec<ChainedEntry>, usize) {
    let mut log = honest.to_vec();
    match *attack {
        Attack::Change { at, field } => {
            corrupt_field(&mut log[at].entry, field);
            (log, at)
        }
        Attack::Remove { at } => {
            log.remove(at);
            (log, at)
        }
        Attack::Insert { at } => {
            log.insert(
                at,
                ChainedEntry {
                    seq: log[at].seq,
                    entry: entry(99),
                    hash: [3; 32],
                },
            );
            (log, at)
        }
        Attack::Swap { at } => {
            log.swap(at, at + 1);
            (log, at)
        }
        Attack::CutOff { at } => {
            log.truncate(at);
            (log, at)
        }
        Attack::Rewrite { at, field } => {
            let mut entries: Vec<Entry> = log.into_iter().map(|linked| linked.entry).collect();
            corrupt_field(&mut entries[at], field);
            (chain(entries), at)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    /// Every attack is found, except for those that touch only entries after the last anchor and
    /// leave a consistent chain.
    #[test]
    fn every_attack_on_what_was_anchored_is_found(attack in attack()) {
        let honest = chain((1..).map(entry).take(LENGTH));
        let (log, from) = apply_attack(&honest, &attack);
        let found = verify_chain(&log, &[anchor(&honest[10]), anchor(&honest[ANCHORED - 1])]);
        let holds = matches!(attack, Attack::CutOff { .. } | Attack::Rewrite { .. })
            || matches!(attack, Attack::Remove { at } if at == LENGTH - 1);
        if holds && from >= ANCHORED {
            prop_assert!(found.is_ok(), "nobody can know: {:?}", found);
        } else {
            prop_assert!(found.is_err(), "{:?} was not found", attack);
        }
    }
}

#[test]
fn digests_travel_as_64_digits_and_nothing_else_is_read() {
    let digest: Digest =
        std::array::from_fn(|place| u8::try_from(place * 7 % 256).expect("a byte"));
    let text = hex::encode(&digest);
    assert_eq!((text.len(), &text[..8]), (64, "00070e15"));
    assert_eq!(hex::decode(&text), Some(digest));
    assert_eq!(hex::decode(&text.to_uppercase()), Some(digest));
    let signed = format!("+1{}", &text[2..]);
    for wrong in [
        "",
        &text[1..],
        &format!("{text}0"),
        &signed,
        &text.replace('0', "g"),
        &"é".repeat(32),
    ] {
        assert_eq!(hex::decode(wrong), None, "{wrong}");
    }
    let anchor = Anchor {
        tenant: TENANT,
        seq: 7,
        hash: digest,
        at: Timestamp::UNIX_EPOCH,
    };
    let written = serde_json::to_string(&anchor).expect("an anchor");
    assert_eq!(
        serde_json::from_str::<Anchor>(&written).expect("what was written"),
        anchor
    );
    assert!(serde_json::from_str::<Anchor>(&written.replace(&text, "00")).is_err());
}

/// Entries of former years must still verify, so the form of a digest never changes.
#[test]
fn the_digest_of_an_entry_is_what_it_always_was() {
    let entry = Entry {
        at: Timestamp::from_second(1_700_000_000).expect("a time"),
        actor: "key_1".into(),
        action: "createMesh".into(),
        target: "mesh_1".into(),
        request_id: Some("r".into()),
        before: None,
        after: Some([7; 32]),
    };
    let digest = entry.chain_hash(
        TENANT,
        &ChainHead {
            seq: 41,
            hash: [3; 32],
        },
        fake_sha256,
    );
    assert_eq!(
        hex::encode(&digest),
        "95b3fd448376f895a380b071d97bb40c56185960e9366473728cea6e5fd4a2b4"
    );
}
