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
pub(crate) enum RequestClass {
    /// A look.
    Read,
    /// A change in the database.
    Write,
    /// A change that makes workers and clusters work.
    Expensive,
}

impl RequestClass {
    /// By method and path.
    pub(crate) fn of_request(method: &Method, path: &str) -> Self {
        const EXPENSIVE_PATH_SUFFIXES: [&str; 5] = ["/clusters", "/meshes", "/upgrades", "/restarts", "/start"];
        match *method {
            Method::GET | Method::HEAD => Self::Read,
            Method::POST if EXPENSIVE_PATH_SUFFIXES.iter().any(|end| path.ends_with(end)) => Self::Expensive,
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
    pub period: Duration,
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
        read: Rate { burst: 200, period: Duration::from_secs(1) },
        write: Rate { burst: 100, period: Duration::from_secs(5) },
        expensive: Rate { burst: 60, period: Duration::from_mins(1) },
    };
    /// What every principal may ask: half of it, so that one program does not use its whole tenant's share up.
    pub const PRINCIPAL: Self = Self {
        read: Rate { burst: 100, period: Duration::from_secs(1) },
        write: Rate { burst: 50, period: Duration::from_secs(5) },
        expensive: Rate { burst: 30, period: Duration::from_mins(1) },
    };
}

impl Rates {
    /// So many times as much.
    #[must_use]
    pub fn scaled_by(self, factor: u32) -> Self {
        let more = |rate: Rate| Rate { burst: rate.burst.saturating_mul(factor.max(1)), period: rate.period };
        Self { read: more(self.read), write: more(self.write), expensive: more(self.expensive) }
    }
}

/// The service's own clock, as the limiter wants it.
#[derive(Debug, Clone)]
struct GovernorClock(Arc<dyn model::Clock>);

impl governor::clock::Clock for GovernorClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        u64::try_from(self.0.now().as_nanosecond()).unwrap_or(0).into()
    }
}

type TokenBuckets = RateLimiter<String, DashMapStateStore<String>, GovernorClock, StateInformationMiddleware>;

/// Above so many known principals, those that have not asked for a while are forgotten.
const MAX_TRACKED_CALLERS: usize = 10_000;

/// Requests of one tenant that wait for a change at the same time. Each keeps a connection that cannot be closed for another
/// caller's, and there are about a thousand where the service has the usual number of open files.
const MAX_LONG_POLLS_PER_TENANT: usize = 100;

/// How long somebody who was let in is known by what they sent.
const CALLER_CACHE_TTL: SignedDuration = SignedDuration::from_secs(10);

/// Somebody who was let in a moment ago. It lets nobody in: it only makes refusing them cheap, for whoever asks fifty times
/// as often as they may would otherwise have the database look for their key fifty times as often.
#[derive(Debug, Clone)]
struct CachedCaller {
    tenant: String,
    principal: String,
    expires_at: Timestamp,
}

/// Who has asked how often.
pub struct RequestLimiter {
    tenants: [TokenBuckets; 3],
    principals: [TokenBuckets; 3],
    cached_callers: Mutex<HashMap<Digest, CachedCaller>>,
    long_polls: TenantPermits,
    clock: GovernorClock,
}

impl std::fmt::Debug for RequestLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits").finish_non_exhaustive()
    }
}

/// What a caller is told of their share.
#[derive(Debug, Clone)]
pub(crate) struct RateLimitHeaders {
    pub(crate) policy: HeaderValue,
    pub(crate) remaining: HeaderValue,
}

fn token_buckets(rates: Rates, clock: &GovernorClock) -> [TokenBuckets; 3] {
    [rates.read, rates.write, rates.expensive].map(|rate| {
        let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(rate.period / burst.get()).expect("rates are above zero").allow_burst(burst);
        TokenBuckets::new(quota, DashMapStateStore::default(), clock.clone())
    })
}

impl RequestLimiter {
    /// Nobody has asked yet.
    pub fn new(tenant: Rates, principal: Rates, clock: Arc<dyn model::Clock>) -> Self {
        let clock = GovernorClock(clock);
        let (known, waits) = (Mutex::default(), TenantPermits::new(MAX_LONG_POLLS_PER_TENANT));
        Self { tenants: token_buckets(tenant, &clock), principals: token_buckets(principal, &clock), cached_callers: known, long_polls: waits, clock }
    }

    /// The right to wait for a change, until it is dropped; `None` while the tenant has too many requests that wait.
    pub(crate) fn acquire_long_poll(&self, tenant: TenantId) -> Option<OwnedSemaphorePermit> {
        self.long_polls.for_tenant(tenant).try_acquire_owned().ok()
    }

    /// Counts a request of somebody who was let in a moment ago with the same credential; `None` for everybody else.
    pub(crate) fn count_cached_caller(&self, credential: &str, class: RequestClass) -> Option<Result<RateLimitHeaders, u64>> {
        let known = self.cached_callers.lock().expect("no holder panics").get(&sha256(credential.as_bytes())).cloned()?;
        (known.expires_at > self.clock.0.now()).then(|| self.count_request(&known.tenant, &known.principal, class))
    }

    /// Knows somebody who was let in by what they sent.
    pub(crate) fn cache_caller(&self, credential: &str, tenant: &str, principal: &str) {
        let now = self.clock.0.now();
        let mut all = self.cached_callers.lock().expect("no holder panics");
        if all.len() >= MAX_TRACKED_CALLERS {
            all.retain(|_, known| known.expires_at > now);
        }
        if all.len() < MAX_TRACKED_CALLERS {
            let known = CachedCaller { tenant: tenant.to_owned(), principal: principal.to_owned(), expires_at: now + CALLER_CACHE_TTL };
            all.insert(sha256(credential.as_bytes()), known);
        }
    }

    /// Counts one request; the error says after how many seconds the next one may come.
    pub(crate) fn count_request(&self, tenant: &str, principal: &str, class: RequestClass) -> Result<RateLimitHeaders, u64> {
        let index = class as usize;
        let mut tightest: Option<(u32, Quota)> = None;
        // The principal first: what it is refused must not count against its tenant.
        let known = format!("{tenant}/{principal}");
        for (buckets, key) in [(&self.principals[index], &known), (&self.tenants[index], &tenant.to_owned())] {
            if buckets.len() > MAX_TRACKED_CALLERS {
                buckets.retain_recent();
            }
            match buckets.check_key(key) {
                Ok(state) => {
                    let left = state.remaining_burst_capacity();
                    if tightest.as_ref().is_none_or(|(known, _)| left < *known) {
                        tightest = Some((left, state.quota()));
                    }
                }
                Err(until) => return Err(whole_seconds(until.wait_time_from(self.clock.now()))),
            }
        }
        let (left, quota) = tightest.expect("two buckets were asked");
        Ok(RateLimitHeaders::new(class, left, &quota))
    }
}

/// Whole seconds, and not too few of them.
fn whole_seconds(wait: Duration) -> u64 {
    let whole = wait.as_secs();
    if wait > Duration::from_secs(whole) { whole + 1 } else { whole.max(1) }
}

impl RateLimitHeaders {
    /// As the `IETF` draft on rate limit headers has it.
    fn new(class: RequestClass, left: u32, quota: &Quota) -> Self {
        let (name, burst) = (class.name(), quota.burst_size().get());
        let window = quota.burst_size_replenished_in().as_secs().max(1);
        let header = |text: String| HeaderValue::from_str(&text).expect("visible characters");
        Self {
            policy: header(format!("\"{name}\";q={burst};w={window}")),
            remaining: header(format!("\"{name}\";r={left}")),
        }
    }
}
