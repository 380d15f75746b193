//! Fair share: how often a tenant, and one principal of it, may ask. One who asks too often is told when to come back, and
//! nobody else notices.
//!
//! Each process counts by itself: with n replicas behind a balancer a tenant has up to n times as much.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderValue, Method};
use governor::clock::Clock as _;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use jiff::{SignedDuration, Timestamp};
use model::audit::Digest;
use model::ids::TenantId;
use store::{TenantPermits, sha256};
use tokio::sync::OwnedSemaphorePermit;

/// What a request costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// A look.
    Read,
    /// A change in the database.
    Write,
    /// A change that makes workers and clusters work.
    Expensive,
}

impl Class {
    /// By method and path.
    pub(crate) fn of(method: &Method, path: &str) -> Self {
        const EXPENSIVE: [&str; 5] = ["/clusters", "/meshes", "/upgrades", "/restarts", "/start"];
        match *method {
            Method::GET | Method::HEAD => Self::Read,
            Method::POST if EXPENSIVE.iter().any(|end| path.ends_with(end)) => Self::Expensive,
            _ => Self::Write,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Expensive => "expensive",
        }
    }
}

/// So many at once, and all of them again after so long.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// How many at once.
    pub burst: u32,
    /// After how long as many again.
    pub per: Duration,
}

/// What one tenant or one principal may ask.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Looks.
    pub read: Rate,
    /// Changes in the database.
    pub write: Rate,
    /// Changes that make workers and clusters work.
    pub expensive: Rate,
}

impl Rates {
    /// What every tenant may ask. What comes at once is what another tenant feels, so a second's worth of looks is enough.
    pub const TENANT: Self = Self {
        read: Rate { burst: 200, per: Duration::from_secs(1) },
        write: Rate { burst: 100, per: Duration::from_secs(5) },
        expensive: Rate { burst: 60, per: Duration::from_mins(1) },
    };
    /// What every principal may ask: half of it, so that one program does not use its whole tenant's share up.
    pub const PRINCIPAL: Self = Self {
        read: Rate { burst: 100, per: Duration::from_secs(1) },
        write: Rate { burst: 50, per: Duration::from_secs(5) },
        expensive: Rate { burst: 30, per: Duration::from_mins(1) },
    };
}

impl Rates {
    /// So many times as much.
    #[must_use]
    pub fn times(self, factor: u32) -> Self {
        let more = |rate: Rate| Rate { burst: rate.burst.saturating_mul(factor.max(1)), per: rate.per };
        Self { read: more(self.read), write: more(self.write), expensive: more(self.expensive) }
    }
}

/// The service's own clock, as the limiter wants it.
#[derive(Debug, Clone)]
struct Clock(Arc<dyn model::Clock>);

impl governor::clock::Clock for Clock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        u64::try_from(self.0.now().as_nanosecond()).unwrap_or(0).into()
    }
}

type Buckets = RateLimiter<String, DashMapStateStore<String>, Clock, StateInformationMiddleware>;

/// Above so many known principals, those that have not asked for a while are forgotten.
const MANY: usize = 10_000;

/// Requests of one tenant that wait for a change at the same time. Each keeps a connection that cannot be closed for another
/// caller's, and there are about a thousand where the service has the usual number of open files.
const WAITS: usize = 100;

/// How long somebody who was let in is known by what they sent.
const KNOWN_FOR: SignedDuration = SignedDuration::from_secs(10);

/// Somebody who was let in a moment ago. It lets nobody in: it only makes refusing them cheap, for whoever asks fifty times
/// as often as they may would otherwise have the database look for their key fifty times as often.
#[derive(Debug, Clone)]
struct Known {
    tenant: String,
    principal: String,
    until: Timestamp,
}

/// Who has asked how often.
pub struct Limits {
    tenants: [Buckets; 3],
    principals: [Buckets; 3],
    known: Mutex<HashMap<Digest, Known>>,
    waits: TenantPermits,
    clock: Clock,
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits").finish_non_exhaustive()
    }
}

/// What a caller is told of their share.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    pub(crate) policy: HeaderValue,
    pub(crate) left: HeaderValue,
}

fn buckets(rates: Rates, clock: &Clock) -> [Buckets; 3] {
    [rates.read, rates.write, rates.expensive].map(|rate| {
        let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(rate.per / burst.get()).expect("rates are above zero").allow_burst(burst);
        Buckets::new(quota, DashMapStateStore::default(), clock.clone())
    })
}

impl Limits {
    /// Nobody has asked yet.
    pub fn new(tenant: Rates, principal: Rates, clock: Arc<dyn model::Clock>) -> Self {
        let clock = Clock(clock);
        let (known, waits) = (Mutex::default(), TenantPermits::new(WAITS));
        Self { tenants: buckets(tenant, &clock), principals: buckets(principal, &clock), known, waits, clock }
    }

    /// The right to wait for a change, until it is dropped; `None` while the tenant has too many requests that wait.
    pub(crate) fn wait(&self, tenant: TenantId) -> Option<OwnedSemaphorePermit> {
        self.waits.of(tenant).try_acquire_owned().ok()
    }

    /// Counts a request of somebody who was let in a moment ago with the same credential; `None` for everybody else.
    pub(crate) fn count_known(&self, credential: &str, class: Class) -> Option<Result<Share, u64>> {
        let known = self.known.lock().expect("no holder panics").get(&sha256(credential.as_bytes())).cloned()?;
        (known.until > self.clock.0.now()).then(|| self.count(&known.tenant, &known.principal, class))
    }

    /// Knows somebody who was let in by what they sent.
    pub(crate) fn remember(&self, credential: &str, tenant: &str, principal: &str) {
        let now = self.clock.0.now();
        let mut all = self.known.lock().expect("no holder panics");
        if all.len() >= MANY {
            all.retain(|_, known| known.until > now);
        }
        if all.len() < MANY {
            let known = Known { tenant: tenant.to_owned(), principal: principal.to_owned(), until: now + KNOWN_FOR };
            all.insert(sha256(credential.as_bytes()), known);
        }
    }

    /// Counts one request; the error says after how many seconds the next one may come.
    pub(crate) fn count(&self, tenant: &str, principal: &str, class: Class) -> Result<Share, u64> {
        let index = class as usize;
        let mut tightest: Option<(u32, Quota)> = None;
        // The principal first: what it is refused must not count against its tenant.
        let known = format!("{tenant}/{principal}");
        for (buckets, key) in [(&self.principals[index], &known), (&self.tenants[index], &tenant.to_owned())] {
            if buckets.len() > MANY {
                buckets.retain_recent();
            }
            match buckets.check_key(key) {
                Ok(state) => {
                    let left = state.remaining_burst_capacity();
                    if tightest.as_ref().is_none_or(|(known, _)| left < *known) {
                        tightest = Some((left, state.quota()));
                    }
                }
                Err(until) => return Err(seconds(until.wait_time_from(self.clock.now()))),
            }
        }
        let (left, quota) = tightest.expect("two buckets were asked");
        Ok(Share::new(class, left, &quota))
    }
}

/// Whole seconds, and not too few of them.
fn seconds(wait: Duration) -> u64 {
    let whole = wait.as_secs();
    if wait > Duration::from_secs(whole) { whole + 1 } else { whole.max(1) }
}

impl Share {
    /// As the `IETF` draft on rate limit headers has it.
    fn new(class: Class, left: u32, quota: &Quota) -> Self {
        let (name, burst) = (class.name(), quota.burst_size().get());
        let window = quota.burst_size_replenished_in().as_secs().max(1);
        let header = |text: String| HeaderValue::from_str(&text).expect("visible characters");
        Self {
            policy: header(format!("\"{name}\";q={burst};w={window}")),
            left: header(format!("\"{name}\";r={left}")),
        }
    }
}
