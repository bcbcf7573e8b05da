//! What a pool asks for python's process, made ready before the fork: afterwards nothing may
//! allocate. Leaves applying it to `sys`.

use clutch_protocol::message::{OomScore, ProcessLimits, Resource as Asked, ResourceLimit};
use nix::errno::Errno;
use nix::sched::CpuSet;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

/// Seconds between SIGXCPU, which says why, and SIGKILL.
const CPU_TIME_GRACE_S: u64 = 5;

/// What is applied between fork and exec.
pub(crate) struct Limits {
    /// Which, soft, hard.
    pub(crate) resources: Vec<(Resource, u64, u64)>,
    pub(crate) cpus: Option<CpuSet>,
    pub(crate) nice: Option<i32>,
    pub(crate) umask: Option<Mode>,
    pub(crate) identity: Option<Identity>,
    /// The text for the kernel, its length, and whether it must be taken.
    pub(crate) oom_score: Option<([u8; 5], usize, bool)>,
}

/// Who python is to be.
pub(crate) struct Identity {
    pub(crate) user: Uid,
    pub(crate) group: Gid,
    pub(crate) groups: Vec<Gid>,
}

/// Makes limits ready. `EINVAL` says that one of them cannot be meant.
pub(crate) fn prepare(asked: ProcessLimits) -> nix::Result<Limits> {
    let umask = match asked.umask {
        Some(bits) => Some(Mode::from_bits(bits).ok_or(Errno::EINVAL)?),
        None => None,
    };
    Ok(Limits {
        resources: asked.resources.iter().map(resource).collect::<nix::Result<_>>()?,
        cpus: cpus(&asked.cpus)?,
        nice: asked.nice,
        umask,
        identity: asked.identity.map(|identity| Identity {
            user: Uid::from_raw(identity.user),
            group: Gid::from_raw(identity.group),
            groups: identity.groups.into_iter().map(Gid::from_raw).collect(),
        }),
        oom_score: asked.oom_score_adj.map(oom_score).transpose()?,
    })
}

fn resource(limit: &ResourceLimit) -> nix::Result<(Resource, u64, u64)> {
    let ResourceLimit { resource, value } = *limit;
    let resource = match resource {
        // Whoever debugs a worker may want one after all, so only the soft limit is lowered.
        Asked::Core => {
            let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
            return Ok((Resource::RLIMIT_CORE, value.min(hard), hard));
        }
        Asked::OpenFiles => Resource::RLIMIT_NOFILE,
        Asked::AddressSpace => Resource::RLIMIT_AS,
        // At one time the kernel would send SIGKILL only, which could come from anyone.
        Asked::CpuTime => {
            let hard = value.saturating_add(CPU_TIME_GRACE_S);
            return Ok((Resource::RLIMIT_CPU, value, hard));
        }
        Asked::FileSize => Resource::RLIMIT_FSIZE,
        Asked::Processes => Resource::RLIMIT_NPROC,
    };
    Ok((resource, value, value))
}

fn cpus(asked: &[u32]) -> nix::Result<Option<CpuSet>> {
    let mut set = CpuSet::new();
    for cpu in asked {
        set.set(*cpu as usize)?;
    }
    Ok((!asked.is_empty()).then_some(set))
}

fn oom_score(score: OomScore) -> nix::Result<([u8; 5], usize, bool)> {
    let text = score.value.to_string();
    let mut bytes = [0; 5];
    let place = bytes.get_mut(..text.len()).ok_or(Errno::EINVAL)?;
    place.copy_from_slice(text.as_bytes());
    Ok((bytes, text.len(), score.required))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let score = |value| OomScore { value, required: true };
        assert_eq!(Ok((*b"-1000", 5, true)), oom_score(score(-1000)));
        assert_eq!(Err(Errno::EINVAL), oom_score(score(-10_000)));
        assert!(cpus(&[1 << 20]).is_err() && cpus(&[]).is_ok_and(|set| set.is_none()));
        let asked = ProcessLimits { umask: Some(0o10_000), ..ProcessLimits::default() };
        assert!(prepare(asked).is_err());
    }

    #[test]
    fn processor_time_ends_with_a_signal_that_says_so() {
        let limit = ResourceLimit { resource: Asked::CpuTime, value: 3 };
        assert_eq!(Ok((Resource::RLIMIT_CPU, 3, 8)), resource(&limit));
    }
}
