//! Who may keep a connection open, and how many bytes may be under way from whom.
//!
//! Owns the places of all connections and the room for bodies that are being received. Knows no
//! socket and reads no clock. Two kinds of people come in:
//!
//! - **known**: a batch whose signed front is by an enrolled installation, or who showed the
//!   reader token. Room is theirs alone; each installation has a share of it.
//! - **strangers**: everybody else, so every connection at first. An address has a share of places
//!   and of room. A newcomer takes the place of the oldest stranger of the same address, so that
//!   nobody keeps others out by waiting.
//!
//! Room is given for a whole body or not at all: bodies that are half here wait for nobody.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::journal::ENTRY_BYTES;
use crate::ids::KeyId;

/// A batch up to this many bytes is an ordinary one: it never waits behind larger ones.
const ORDINARY_BYTES: usize = 2 << 20;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections of strangers at one address.
    pub connections_each: usize,
    /// Bytes under way of known installations' ordinary batches.
    pub ordinary_bytes: usize,
    /// Bytes under way of known installations' large batches.
    pub large_bytes: usize,
    /// Bytes under way of one known installation.
    pub known_bytes_each: usize,
    /// Bytes under way of strangers.
    pub stranger_bytes: usize,
    /// Bytes under way of strangers at one address.
    pub stranger_bytes_each: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_each: 512,
            ordinary_bytes: 64 << 20,
            large_bytes: 4 * ENTRY_BYTES,
            known_bytes_each: 2 * ENTRY_BYTES,
            stranger_bytes: 2 * ENTRY_BYTES,
            stranger_bytes_each: ENTRY_BYTES,
        }
    }
}

impl Limits {
    /// The limits of a process that may have so many files open: half of them for connections,
    /// and of those a fourth for strangers at one address.
    #[must_use]
    pub fn within(files: u64) -> Self {
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let all = Self::default();
        let connections = all.connections.min(files / 2).max(16);
        Self {
            connections,
            connections_each: all.connections_each.min(connections / 4).max(8),
            ..all
        }
    }
}

/// The part of the network that shares one share: an IPv4 address, or an IPv6 network of 64 bits,
/// of which one host has as many addresses as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Address(IpAddr);

impl Address {
    fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(ip) if !ip.is_loopback() => {
                let network = u128::from(ip) >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from(network))
            }
            ip => ip,
        })
    }
}

#[derive(Debug)]
struct Place {
    address: Address,
    known: bool,
    leave: Arc<Notify>,
}

/// A stranger's body under way.
#[derive(Debug)]
struct Claim {
    address: Address,
    guest: u64,
    bytes: usize,
    /// Whole, and being stored: it ends by itself soon.
    received: bool,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By number, so oldest first.
    places: BTreeMap<u64, Place>,
    claims: BTreeMap<u64, Claim>,
    known: BTreeMap<KeyId, usize>,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn strangers(&self) -> impl Iterator<Item = (&u64, &Place)> {
        self.places.iter().filter(|(_, place)| !place.known)
    }

    /// Ends a stranger's connection; what it held is free at once.
    fn end(&mut self, guest: u64) {
        self.claims.retain(|_, claim| claim.guest != guest);
        if let Some(place) = self.places.remove(&guest) {
            place.leave.notify_one();
        }
    }
}

/// The address that has most of something.
fn busiest(of: impl Iterator<Item = (Address, usize)>) -> Option<Address> {
    let mut sums: BTreeMap<Address, usize> = BTreeMap::new();
    for (address, amount) in of {
        *sums.entry(address).or_default() += amount;
    }
    sums.into_iter()
        .max_by_key(|(_, sum)| *sum)
        .map(|(address, _)| address)
}

/// Places and room of one server.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    state: Mutex<State>,
    ordinary: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Admission {
    /// Everything is free.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            state: Mutex::default(),
            ordinary: Arc::new(Semaphore::new(limits.ordinary_bytes)),
            large: Arc::new(Semaphore::new(limits.large_bytes)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a new connection a place, if need be that of an older stranger; nothing when all
    /// places are taken by known ones. Linear in the connections where an address is full.
    pub fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Arc<Guest>> {
        let address = Address::of(ip);
        let mut state = self.state();
        let of_it = |state: &State, address| {
            let mut own = state.strangers().filter(|(_, p)| p.address == address);
            let oldest = own.next().map(|(number, _)| *number);
            (oldest, usize::from(oldest.is_some()) + own.count())
        };
        if let (Some(oldest), count) = of_it(&state, address)
            && count >= self.limits.connections_each
        {
            state.end(oldest);
        }
        if state.places.len() >= self.limits.connections {
            let busiest = busiest(state.strangers().map(|(_, place)| (place.address, 1)))?;
            let (oldest, _) = of_it(&state, busiest);
            state.end(oldest?);
        }
        let number = state.number();
        let leave = Arc::new(Notify::new());
        let place = Place {
            address,
            known: false,
            leave: Arc::clone(&leave),
        };
        state.places.insert(number, place);
        drop(state);
        Some(Arc::new(Guest {
            admission: Arc::clone(self),
            number,
            ip,
            leave,
        }))
    }
}

/// A connection with a place; gives it back when it is dropped.
#[derive(Debug)]
pub struct Guest {
    admission: Arc<Admission>,
    number: u64,
    ip: IpAddr,
    leave: Arc<Notify>,
}

impl Guest {
    /// The other end's address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Returns when the place was given to somebody else.
    pub async fn left(&self) {
        self.leave.notified().await;
    }

    /// Takes note that somebody known speaks here: nobody takes this place from now on.
    pub fn prove(&self) {
        if let Some(place) = self.admission.state().places.get_mut(&self.number) {
            place.known = true;
        }
    }

    /// Waits for room for a whole batch of a known installation; nothing when it has its share
    /// under way already.
    pub async fn known_room(&self, key: &KeyId, bytes: usize) -> Option<Room> {
        let admission = &self.admission;
        let share = {
            let mut state = admission.state();
            let held = state.known.get(key).copied().unwrap_or(0);
            if held + bytes > admission.limits.known_bytes_each {
                return None;
            }
            state.known.insert(key.clone(), held + bytes);
            Room {
                admission: Arc::clone(admission),
                held: Held::Known(key.clone(), bytes, None),
            }
        };
        let semaphore = if bytes <= ORDINARY_BYTES {
            &admission.ordinary
        } else {
            &admission.large
        };
        let wanted = u32::try_from(bytes).ok()?;
        let permit = Arc::clone(semaphore)
            .acquire_many_owned(wanted)
            .await
            .ok()?;
        let mut room = share;
        if let Held::Known(_, _, held) = &mut room.held {
            *held = Some(permit);
        }
        Some(room)
    }

    /// Gives room for a whole batch of a stranger, if need be that of older ones which are still
    /// sending; nothing when the room is taken by batches that are being stored.
    #[must_use]
    pub fn stranger_room(&self, bytes: usize) -> Option<Room> {
        let limits = &self.admission.limits;
        let mut state = self.admission.state();
        let address = state.places.get(&self.number)?.address;
        let held = |state: &State, of: Option<Address>| {
            let claims = state.claims.values();
            let claims = claims.filter(|claim| of.is_none_or(|of| claim.address == of));
            claims.map(|claim| claim.bytes).sum::<usize>()
        };
        let oldest = |state: &State, of: Address| {
            let mut claims = state.claims.values();
            let claim = claims
                .find(|claim| claim.address == of && !claim.received && claim.guest != self.number);
            claim.map(|claim| claim.guest)
        };
        while held(&state, Some(address)) + bytes > limits.stranger_bytes_each {
            let oldest = oldest(&state, address)?;
            state.end(oldest);
        }
        while held(&state, None) + bytes > limits.stranger_bytes {
            let sending = state.claims.values().filter(|claim| !claim.received);
            let busiest = busiest(sending.map(|claim| (claim.address, claim.bytes)))?;
            let oldest = oldest(&state, busiest)?;
            state.end(oldest);
        }
        let number = state.number();
        let claim = Claim {
            address,
            guest: self.number,
            bytes,
            received: false,
        };
        state.claims.insert(number, claim);
        drop(state);
        Some(Room {
            admission: Arc::clone(&self.admission),
            held: Held::Stranger(number),
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.admission.state().places.remove(&self.number);
    }
}

#[derive(Debug)]
enum Held {
    Known(KeyId, usize, Option<OwnedSemaphorePermit>),
    Stranger(u64),
}

/// Room for one body; given back when it is dropped.
#[derive(Debug)]
pub struct Room {
    admission: Arc<Admission>,
    held: Held,
}

impl Room {
    /// The body is whole: nobody takes the room from here on.
    pub fn received(&self) {
        if let Held::Stranger(number) = self.held
            && let Some(claim) = self.admission.state().claims.get_mut(&number)
        {
            claim.received = true;
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        match &self.held {
            Held::Known(key, bytes, _) => {
                let left = state.known.get(key).map_or(0, |held| held - bytes);
                if left == 0 {
                    state.known.remove(key);
                } else {
                    state.known.insert(key.clone(), left);
                }
            }
            Held::Stranger(number) => {
                state.claims.remove(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::ids::Digest;

    fn admission() -> Arc<Admission> {
        Admission::new(Limits {
            connections: 6,
            connections_each: 3,
            ordinary_bytes: 200,
            large_bytes: 4 * ORDINARY_BYTES,
            known_bytes_each: 2 * ORDINARY_BYTES,
            stranger_bytes: 150,
            stranger_bytes_each: 100,
        })
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn has_left(guest: &Guest) -> bool {
        let left = std::pin::pin!(guest.left());
        left.poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    fn key(name: &[u8]) -> KeyId {
        Digest::of(name).into()
    }

    /// Room of a known installation, if it is there without waiting.
    fn now(guest: &Guest, name: &[u8], bytes: usize) -> Option<Room> {
        let key = key(name);
        let room = std::pin::pin!(guest.known_room(&key, bytes));
        match room.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(room) => room,
            Poll::Pending => None,
        }
    }

    #[test]
    fn newcomer_takes_the_place_of_the_oldest_stranger_of_its_address() {
        let admission = admission();
        let [first, second, third] = [(); 3].map(|()| admission.enter(ip(1)).unwrap());
        let elsewhere = admission.enter(ip(2)).unwrap();
        let fourth = admission.enter(ip(1)).unwrap();
        assert!(has_left(&first));
        for stays in [&second, &third, &fourth, &elsewhere] {
            assert!(!has_left(stays));
        }
        drop((second, third));
        let fifth = admission.enter(ip(1)).unwrap();
        assert!(!has_left(&fourth) && !has_left(&fifth), "there was a place");
    }

    #[test]
    fn nobody_takes_the_place_of_a_known_one() {
        let admission = admission();
        let known: Vec<_> = (0..6).map(|_| admission.enter(ip(1)).unwrap()).collect();
        assert_eq!(known.iter().filter(|guest| has_left(guest)).count(), 3);
        let admission = self::admission();
        let known: Vec<_> = (0..5)
            .map(|_| {
                let guest = admission.enter(ip(1)).unwrap();
                guest.prove();
                guest
            })
            .collect();
        let stranger = admission.enter(ip(2)).unwrap();
        let other = admission.enter(ip(3)).unwrap();
        assert!(has_left(&stranger), "all places were taken");
        other.prove();
        assert!(admission.enter(ip(4)).is_none());
        assert!(known.iter().all(|guest| !has_left(guest)));
    }

    #[test]
    fn one_address_never_takes_the_places_of_another() {
        let admission = admission();
        let many: Vec<_> = (0..3).map(|_| admission.enter(ip(1)).unwrap()).collect();
        let others: Vec<_> = (2..5).map(|n| admission.enter(ip(n)).unwrap()).collect();
        let _new = admission.enter(ip(9)).unwrap();
        assert!(has_left(&many[0]), "the address with the most gives one");
        assert!(others.iter().all(|guest| !has_left(guest)));
    }

    #[test]
    fn strangers_who_send_slowly_give_way_to_newer_ones_of_their_address() {
        let admission = admission();
        let [a, b] = [(); 2].map(|()| admission.enter(ip(1)).unwrap());
        let slow = a.stranger_room(100).unwrap();
        let room = b.stranger_room(60).unwrap();
        assert!(has_left(&a));
        // what was taken away is not given back twice
        drop(slow);
        room.received();
        let c = admission.enter(ip(1)).unwrap();
        assert!(c.stranger_room(60).is_none(), "it is being stored");
        assert!(!has_left(&b));
        drop(room);
        assert!(c.stranger_room(100).is_some());
        assert!(c.stranger_room(101).is_none(), "more than its share");
    }

    #[test]
    fn strangers_together_take_no_more_than_their_room() {
        let admission = admission();
        let [a, b] = [1, 2].map(|n| admission.enter(ip(n)).unwrap());
        let _much = a.stranger_room(100).unwrap();
        let _little = b.stranger_room(40).unwrap();
        let c = admission.enter(ip(3)).unwrap();
        let _room = c.stranger_room(60).unwrap();
        assert!(has_left(&a) && !has_left(&b), "who has most gives");
    }

    #[test]
    fn strangers_take_nothing_from_known_installations() {
        let admission = admission();
        let strangers: Vec<_> = (1..4).map(|n| admission.enter(ip(n)).unwrap()).collect();
        let held: Vec<_> = strangers.iter().map(|g| g.stranger_room(50)).collect();
        assert!(held.iter().all(Option::is_some));
        let device = admission.enter(ip(1)).unwrap();
        device.prove();
        assert!(now(&device, b"one", 200).is_some());
        assert!(strangers.iter().all(|guest| !has_left(guest)));
    }

    #[test]
    fn an_installation_has_a_share_and_ordinary_batches_pass_large_ones() {
        let admission = admission();
        let device = admission.enter(ip(1)).unwrap();
        device.prove();
        let large = 2 * ORDINARY_BYTES;
        let one = now(&device, b"one", large).unwrap();
        assert!(now(&device, b"one", 1).is_none(), "its share is under way");
        let _two = now(&device, b"two", large).unwrap();
        assert!(
            now(&device, b"three", large).is_none(),
            "no room for a large one"
        );
        let small = now(&device, b"three", 200).unwrap();
        assert!(
            now(&device, b"four", 1).is_none(),
            "nor for an ordinary one"
        );
        drop((one, small));
        assert!(now(&device, b"three", large).is_some());
        assert!(now(&device, b"one", 200).is_some());
        assert_eq!(admission.state().known.len(), 1, "nothing is left behind");
    }

    #[test]
    fn addresses_of_one_network_share() {
        let v6 = |text: &str| Address::of(text.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff:1"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
        assert_eq!(v6("::ffff:10.0.0.1"), Address::of(ip(1)));
        assert_ne!(Address::of(ip(1)), Address::of(ip(2)));
    }

    #[test]
    fn few_files_make_few_connections() {
        let small = Limits::within(256);
        assert!(small.connections <= 128 && small.connections_each <= small.connections / 4);
        assert_eq!(
            Limits::within(u64::MAX).connections,
            Limits::default().connections
        );
    }
}
