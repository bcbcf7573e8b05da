//! How much the daemon may keep for its clients under handles: bytes of memory and descriptors, for
//! one client and for all of them. Beyond it a value is refused, and never waited for: only its own
//! client knows what can be released.
//!
//! None of it counts in the [`Ledger`](super::Ledger), whose numbers calls wait for: a client with
//! as many values as it may have would wait for itself.

use std::cell::Cell;
use std::rc::Rc;

use clutch_protocol::failure::HandleQuota;
use clutch_protocol::limits::DESCRIPTORS_MAX;

/// How much may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    bytes: u64,
    bytes_of_one: u64,
    descriptors: u64,
    descriptors_of_one: u64,
}

/// What is kept: values that a client has released count for as long as a call has them.
#[derive(Debug, Default)]
struct Tally {
    values: Cell<u64>,
    bytes: Cell<u64>,
    descriptors: Cell<u64>,
}

impl Tally {
    fn add(&self, bytes: u64, descriptors: u64) {
        self.values.set(self.values.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        self.descriptors.set(self.descriptors.get() + descriptors);
    }

    fn take_off(&self, bytes: u64, descriptors: u64) {
        self.values.set(self.values.get() - 1);
        self.bytes.set(self.bytes.get() - bytes);
        self.descriptors.set(self.descriptors.get() - descriptors);
    }
}

/// Why a value is not kept: which quota it would exceed, and the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Which one.
    pub quota: HandleQuota,
    /// How much the value would add.
    pub needed: u64,
    /// How much is kept already.
    pub held: u64,
    /// How much may be.
    pub limit: u64,
}

/// What is kept for all clients.
#[derive(Debug)]
pub struct Quotas {
    limits: Limits,
    kept: Tally,
}

impl Quotas {
    /// What may be kept: so many bytes in all and for one client, and of the `free` descriptors
    /// that [`Holdings`](super::Holdings) shares out, an eighth, of which one client may have a
    /// quarter. However few there are, one value can always be kept.
    pub fn new(bytes: u64, bytes_of_one: u64, free: u64) -> Rc<Quotas> {
        let one_frame = u64::from(DESCRIPTORS_MAX);
        let descriptors = (free / 8).max(one_frame);
        let descriptors_of_one = (descriptors / 4).max(one_frame);
        let limits = Limits { bytes, bytes_of_one, descriptors, descriptors_of_one };
        Rc::new(Quotas { limits, kept: Tally::default() })
    }

    /// How many values are kept.
    pub fn values(&self) -> u64 {
        self.kept.values.get()
    }

    /// Bytes of memory that they are in.
    pub fn bytes(&self) -> u64 {
        self.kept.bytes.get()
    }

    /// Descriptors that they have.
    pub fn descriptors(&self) -> u64 {
        self.kept.descriptors.get()
    }
}

/// One client's part in what is kept.
#[derive(Clone, Debug)]
pub struct Account {
    all: Rc<Quotas>,
    own: Rc<Tally>,
}

impl Account {
    /// A client that nothing is kept for.
    pub fn new(all: Rc<Quotas>) -> Account {
        Account { all, own: Rc::default() }
    }

    /// Counts one more value, if there is room for it.
    pub(super) fn take(&self, descriptors: usize, bytes: u64) -> Result<(), Full> {
        use HandleQuota::{Bytes, ClientBytes, ClientDescriptors, Descriptors};
        let count = descriptors as u64;
        let (own, kept, limits) = (&self.own, &self.all.kept, &self.all.limits);
        for (quota, needed, held, limit) in [
            (ClientBytes, bytes, own.bytes.get(), limits.bytes_of_one),
            (Bytes, bytes, kept.bytes.get(), limits.bytes),
            (ClientDescriptors, count, own.descriptors.get(), limits.descriptors_of_one),
            (Descriptors, count, kept.descriptors.get(), limits.descriptors),
        ] {
            // What is held is within its limit. What is needed may be any number.
            if needed > limit - held {
                return Err(Full { quota, needed, held, limit });
            }
        }
        own.add(bytes, count);
        kept.add(bytes, count);
        Ok(())
    }

    /// A value is kept no more.
    pub(super) fn give_back(&self, descriptors: usize, bytes: u64) {
        self.own.take_off(bytes, descriptors as u64);
        self.all.kept.take_off(bytes, descriptors as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Why the account does not take it.
    fn full(account: &Account, descriptors: usize, bytes: u64) -> (HandleQuota, [u64; 3]) {
        let Full { quota, needed, held, limit } = account.take(descriptors, bytes).unwrap_err();
        (quota, [needed, held, limit])
    }

    fn kept(quotas: &Quotas) -> [u64; 3] {
        [quotas.values(), quotas.bytes(), quotas.descriptors()]
    }

    #[test]
    fn bytes_are_bounded_for_one_and_for_all_up_to_the_last() {
        let quotas = Quotas::new(100, 60, 1 << 20);
        let (one, other) = (Account::new(quotas.clone()), Account::new(quotas.clone()));
        assert_eq!(Ok(()), one.take(1, 60));
        assert_eq!((HandleQuota::ClientBytes, [1, 60, 60]), full(&one, 1, 1));
        assert_eq!(Ok(()), one.take(1, 0), "a file has no bytes");
        assert_eq!((HandleQuota::Bytes, [41, 60, 100]), full(&other, 1, 41));
        assert_eq!(Ok(()), other.take(1, 40));
        assert_eq!([3, 100, 3], kept(&quotas), "what was refused does not count");
        one.give_back(1, 60);
        assert_eq!((HandleQuota::ClientBytes, [21, 40, 60]), full(&other, 1, 21));
        assert_eq!(Ok(()), other.take(1, 20));
        assert_eq!((HandleQuota::ClientBytes, [u64::MAX, 0, 60]), full(&one, 1, u64::MAX));
        one.give_back(1, 0);
        other.give_back(1, 40);
        other.give_back(1, 20);
        assert_eq!([0, 0, 0], kept(&quotas));
    }

    #[test]
    fn descriptors_are_an_eighth_of_the_free_ones_and_a_quarter_of_that_for_one() {
        let quotas = Quotas::new(1, 1, 8 * 400);
        let clients: Vec<_> = (0..5).map(|_| Account::new(quotas.clone())).collect();
        for client in &clients[..4] {
            assert_eq!(Ok(()), client.take(60, 0));
            assert_eq!((HandleQuota::ClientDescriptors, [41, 60, 100]), full(client, 41, 0));
            assert_eq!(Ok(()), client.take(39, 0));
        }
        assert_eq!((HandleQuota::Descriptors, [5, 396, 400]), full(&clients[4], 5, 0));
        assert_eq!(Ok(()), clients[4].take(4, 0));
        assert_eq!([9, 0, 400], kept(&quotas));
    }

    #[test]
    fn one_value_is_kept_however_few_descriptors_are_free() {
        let account = Account::new(Quotas::new(0, 0, 0));
        assert_eq!(Ok(()), account.take(63, 0));
        assert_eq!((HandleQuota::ClientDescriptors, [2, 63, 64]), full(&account, 2, 0));
        account.give_back(63, 0);
        assert_eq!((HandleQuota::ClientBytes, [1, 0, 0]), full(&account, 1, 1));
    }
}
