//! How often somebody may try a secret.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The time in which attempts are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// So many attempts that failed are taken from one address.
const OF_ONE: u32 = 5;
/// So many are taken from all addresses together. It also bounds the table of addresses.
const OF_ALL: u32 = 100;

/// The attempts of the last minute.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<IpAddr, Counted>>);

#[derive(Debug)]
struct Counted {
    since: Instant,
    attempts: u32,
}

impl Attempts {
    /// Counts an attempt before it is looked at, so that many at once are no way around. It is refused
    /// with how long to wait.
    pub(super) fn begin(&self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut table = self.table();
        table.retain(|_, counted| now.duration_since(counted.since) < WINDOW);
        let of_all: u32 = table.values().map(|counted| counted.attempts).sum();

        let oldest = table.values().map(|counted| counted.since).min();
        let counted = table.get_mut(&network(peer));
        let until_next = |since: Instant| WINDOW.saturating_sub(now.duration_since(since));
        match counted {
            Some(counted) if counted.attempts >= OF_ONE => Err(until_next(counted.since)),
            _ if of_all >= OF_ALL => Err(until_next(oldest.unwrap_or(now))),
            Some(counted) => {
                counted.attempts += 1;
                Ok(())
            }
            None => {
                let first = Counted {
                    since: now,
                    attempts: 1,
                };
                table.insert(network(peer), first);
                Ok(())
            }
        }
    }

    /// Forgets the attempts of one who got in.
    pub(super) fn succeeded(&self, peer: IpAddr) {
        self.table().remove(&network(peer));
    }

    fn table(&self) -> MutexGuard<'_, HashMap<IpAddr, Counted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one is likely to own whole: an address of IPv4, or a /64 network of IPv6.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap_or(Ipv6Addr::LOCALHOST.into())
    }

    #[test]
    fn one_address_has_five_attempts_in_a_minute() {
        let attempts = Attempts::default();
        let now = Instant::now();
        let (one, other) = (address("10.0.0.1"), address("10.0.0.2"));
        for _ in 0..OF_ONE {
            assert_eq!(attempts.begin(one, now), Ok(()));
        }
        let later = now + Duration::from_secs(20);
        assert_eq!(attempts.begin(one, later), Err(Duration::from_secs(40)));
        assert_eq!(attempts.begin(other, later), Ok(()));
        assert_eq!(attempts.begin(one, now + WINDOW), Ok(()));
    }

    #[test]
    fn one_who_gets_in_begins_anew() {
        let attempts = Attempts::default();
        let now = Instant::now();
        let one = address("10.0.0.1");
        for _ in 0..20 {
            assert_eq!(attempts.begin(one, now), Ok(()));
            attempts.succeeded(one);
        }
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for host in 0..OF_ONE {
            let peer = address(&format!("2001:db8::{host}"));
            assert_eq!(attempts.begin(peer, now), Ok(()));
        }
        assert!(attempts.begin(address("2001:db8::ffff"), now).is_err());
        assert!(attempts.begin(address("2001:db8:0:1::1"), now).is_ok());
    }

    #[test]
    fn all_addresses_together_are_bounded() {
        let attempts = Attempts::default();
        let now = Instant::now();
        let allowed = (0..=255)
            .map(|host| address(&format!("10.0.0.{host}")))
            .filter(|peer| attempts.begin(*peer, now).is_ok());
        assert_eq!(allowed.count(), OF_ALL as usize);
    }
}
