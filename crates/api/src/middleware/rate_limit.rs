//! Limits the rate of requests of each tenant and of each principal in it. A caller beyond the
//! limit is told when to retry, and other tenants are not slowed down.
//!
//! Each process counts by itself: with n replicas behind a load balancer, a tenant has up to n
//! times the rate.

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
use meshwright_model::audit::Digest;
use meshwright_model::ids::TenantId;
use meshwright_store::{TenantPermits, sha256};
use tokio::sync::OwnedSemaphorePermit;

/// Cost class of a request. Each class has rate limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestClass {
    /// A request that only reads.
    Read,
    /// A request that changes something in the database.
    Write,
    /// A request that causes work for workers and clusters.
    Expensive,
}

impl RequestClass {
    /// Returns the class of a request by its method and path.
    pub(crate) fn of_request(method: &Method, path: &str) -> Self {
        const EXPENSIVE_PATH_SUFFIXES: [&str; 6] = [
            "/clusters",
            "/meshes",
            "/upgrades",
            "/restarts",
            "/rollouts",
            "/start",
        ];
        match *method {
            Method::GET | Method::HEAD => Self::Read,
            Method::POST
                if EXPENSIVE_PATH_SUFFIXES
                    .iter()
                    .any(|end| path.ends_with(end)) =>
            {
                Self::Expensive
            }
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

/// Size and refill time of a token bucket.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Number of requests that are allowed at once.
    pub burst: u32,
    /// Time in which an empty bucket fills up again.
    pub period: Duration,
}

/// Rates of one tenant or one principal, for each cost class.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Rate of requests that only read.
    pub read: Rate,
    /// Rate of requests that change something in the database.
    pub write: Rate,
    /// Rate of requests that cause work for workers and clusters.
    pub expensive: Rate,
}

impl Rates {
    /// Rates of a tenant. The burst is the part that other tenants feel, so the burst of reads is
    /// no more than a tenant may read in one second.
    pub const TENANT: Self = Self {
        read: Rate {
            burst: 200,
            period: Duration::from_secs(1),
        },
        write: Rate {
            burst: 100,
            period: Duration::from_secs(5),
        },
        expensive: Rate {
            burst: 60,
            period: Duration::from_mins(1),
        },
    };
    /// Rates of a principal: half of a tenant's rates, so that one program does not use up the
    /// share of its whole tenant.
    pub const PRINCIPAL: Self = Self {
        read: Rate {
            burst: 100,
            period: Duration::from_secs(1),
        },
        write: Rate {
            burst: 50,
            period: Duration::from_secs(5),
        },
        expensive: Rate {
            burst: 30,
            period: Duration::from_mins(1),
        },
    };
}

impl Rates {
    /// Maximum factor of [`Rates::scaled_by`] for the rates above. The rate limiter counts whole
    /// nanoseconds for each request, and this factor leaves five of them.
    pub const MAX_FACTOR: u32 = 1_000_000;

    /// Multiplies the bursts by a factor from 1 to [`Rates::MAX_FACTOR`], and keeps the periods.
    #[must_use]
    pub fn scaled_by(self, factor: u32) -> Self {
        let more = |rate: Rate| Rate {
            burst: rate.burst.saturating_mul(factor.clamp(1, Self::MAX_FACTOR)),
            period: rate.period,
        };
        Self {
            read: more(self.read),
            write: more(self.write),
            expensive: more(self.expensive),
        }
    }
}

/// Adapter that gives the clock of the service to the rate limiter. The limiter gets the sum of all
/// steps ahead: when the wall clock is set back, time goes on from where it was. The buckets would
/// otherwise stay empty until the wall clock is again where it was.
#[derive(Debug, Clone)]
struct GovernorClock {
    wall: Arc<dyn meshwright_model::Clock>,
    elapsed: Arc<Mutex<ElapsedTime>>,
}

/// Time that has passed since the rate limiter was created.
#[derive(Debug)]
struct ElapsedTime {
    /// Wall clock when it was last read.
    last_read: Timestamp,
    total: Duration,
}

impl GovernorClock {
    fn new(wall: Arc<dyn meshwright_model::Clock>) -> Self {
        let start = ElapsedTime {
            last_read: wall.now(),
            total: Duration::ZERO,
        };
        Self {
            wall,
            elapsed: Arc::new(Mutex::new(start)),
        }
    }
}

impl governor::clock::Clock for GovernorClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        let mut elapsed = self.elapsed.lock().expect("no holder panics");
        // Read the wall clock under the lock, so that its readings come in order.
        let now = self.wall.now();
        // A step back is negative and adds nothing.
        let step = Duration::try_from(now.duration_since(elapsed.last_read)).unwrap_or_default();
        elapsed.total += step;
        elapsed.last_read = now;
        u64::try_from(elapsed.total.as_nanos())
            .unwrap_or(u64::MAX)
            .into()
    }
}

type TokenBuckets =
    RateLimiter<String, DashMapStateStore<String>, GovernorClock, StateInformationMiddleware>;

/// Number of tracked callers above which callers without recent requests are forgotten.
const MAX_TRACKED_CALLERS: usize = 10_000;

/// Maximum number of requests of one tenant that wait for a change at the same time. Each of them
/// keeps a connection that cannot be closed in favour of another caller, and a process with the
/// usual limit on open files has about a thousand connections.
const MAX_LONG_POLLS_PER_TENANT: usize = 100;

/// Time for which an authenticated caller is cached by the digest of its credential.
const CALLER_CACHE_TTL: SignedDuration = SignedDuration::from_secs(10);

/// Caller that was authenticated a short time ago. The cache authenticates no request. It only
/// makes a refusal cheap: a client that sends fifty times its allowed rate would otherwise cause
/// fifty times as many look-ups of its key in the database.
#[derive(Debug, Clone)]
struct CachedCaller {
    tenant: String,
    principal: String,
    expires_at: Timestamp,
}

/// Rate limits of tenants and principals, and the requests that were counted against them.
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

/// Values of the rate limit headers in an answer.
#[derive(Debug, Clone)]
pub(crate) struct RateLimitHeaders {
    pub(crate) policy: HeaderValue,
    pub(crate) remaining: HeaderValue,
}

/// Creates the token buckets of the three cost classes.
fn token_buckets(rates: Rates, clock: &GovernorClock) -> [TokenBuckets; 3] {
    [rates.read, rates.write, rates.expensive].map(|rate| {
        let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(rate.period / burst.get())
            .expect("rates are above zero")
            .allow_burst(burst);
        TokenBuckets::new(quota, DashMapStateStore::default(), clock.clone())
    })
}

impl RequestLimiter {
    /// Creates rate limits against which no request was counted yet.
    pub fn new(tenant: Rates, principal: Rates, clock: Arc<dyn meshwright_model::Clock>) -> Self {
        let clock = GovernorClock::new(clock);
        let (known, waits) = (
            Mutex::default(),
            TenantPermits::new(MAX_LONG_POLLS_PER_TENANT),
        );
        Self {
            tenants: token_buckets(tenant, &clock),
            principals: token_buckets(principal, &clock),
            cached_callers: known,
            long_polls: waits,
            clock,
        }
    }

    /// Takes a permit to wait for a change, which is held until it is dropped. Returns `None` while
    /// the tenant has too many waiting requests.
    pub(crate) fn acquire_long_poll(&self, tenant: TenantId) -> Option<OwnedSemaphorePermit> {
        self.long_polls.for_tenant(tenant).try_acquire_owned().ok()
    }

    /// Counts a request whose credential was authenticated a short time ago. Returns `None` if the
    /// credential is not in the cache.
    pub(crate) fn count_cached_caller(
        &self,
        credential: &str,
        class: RequestClass,
    ) -> Option<Result<RateLimitHeaders, u64>> {
        let known = self
            .cached_callers
            .lock()
            .expect("no holder panics")
            .get(&sha256(credential.as_bytes()))
            .cloned()?;
        (known.expires_at > self.clock.wall.now())
            .then(|| self.count_request(&known.tenant, &known.principal, class))
    }

    /// Caches an authenticated caller by the digest of its credential.
    pub(crate) fn cache_caller(&self, credential: &str, tenant: &str, principal: &str) {
        let now = self.clock.wall.now();
        let mut all = self.cached_callers.lock().expect("no holder panics");
        if all.len() >= MAX_TRACKED_CALLERS {
            all.retain(|_, known| known.expires_at > now);
        }
        if all.len() < MAX_TRACKED_CALLERS {
            let known = CachedCaller {
                tenant: tenant.to_owned(),
                principal: principal.to_owned(),
                expires_at: now + CALLER_CACHE_TTL,
            };
            all.insert(sha256(credential.as_bytes()), known);
        }
    }

    /// Counts one request. The error is the number of seconds until the next request is allowed.
    pub(crate) fn count_request(
        &self,
        tenant: &str,
        principal: &str,
        class: RequestClass,
    ) -> Result<RateLimitHeaders, u64> {
        let index = class as usize;
        let mut tightest: Option<(u32, Quota)> = None;
        // Check the principal first: a request that is refused for the principal must not count
        // against its tenant.
        let known = format!("{tenant}/{principal}");
        for (buckets, key) in [
            (&self.principals[index], &known),
            (&self.tenants[index], &tenant.to_owned()),
        ] {
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

/// Rounds up to whole seconds, and to at least one.
fn whole_seconds(wait: Duration) -> u64 {
    let whole = wait.as_secs();
    if wait > Duration::from_secs(whole) {
        whole + 1
    } else {
        whole.max(1)
    }
}

impl RateLimitHeaders {
    /// Builds the header values in the form of the `IETF` draft on rate limit headers.
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
