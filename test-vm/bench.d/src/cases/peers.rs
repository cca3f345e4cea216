// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Back-ends of others: what they need for a request, and for a state.

use std::{
    env,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::pipe::{pipe_with, PipeFlags};
use vhost::vhost_user::message::VhostUserProtocolFeatures;

use super::{faults::bursts, times, Bench};
use crate::{
    place::Cores,
    process::Process,
    results::{by_turns, per_second, Results, Target},
    ring::{Ring, Shared},
    session::RING_SIZE,
    vhost_user::Connection,
};

const BURSTS: usize = 200;
const BURST: u16 = 64;
/// Bytes of a read.
const BLOCK: u32 = 4096;

/// Measures them.
pub fn measure(bench: &Bench<'_>, results: &mut Results) {
    for cores in [Cores::One, Cores::Two] {
        let name = format!("faults per CPU-second against a null disk's reads, {cores}");
        let target = "ratio >= 4";
        match program("VSVA_STORAGE_DAEMON") {
            _ if !bench.place.has(cores) => {
                results.missing(&name, "1/s", target, "this process may use one core only");
            }
            None => results.missing(&name, "1/s", target, "there is no qemu-storage-daemon"),
            Some(daemon) => results.case(&[(&name, "1/s")], |results| {
                storage(bench, cores, &daemon, &name, results)
            }),
        }
    }
    let name = "SAVE of 64 pending, one core";
    match program("VSVA_VIRTIOFSD") {
        None => results.missing(name, "ns", "ratio <= 0.8", "there is no virtiofsd"),
        Some(daemon) => {
            results.case(&[(name, "ns")], |results| {
                small_state(bench, &daemon, name, results)
            });
        }
    }
}

fn program(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// A disk of qemu-storage-daemon that reads nothing.
struct NullDisk {
    process: Process,
    _connection: Connection,
    ring: Ring,
    _shared: Shared,
}

impl NullDisk {
    fn start(daemon: &Path, folder: &Path) -> io::Result<Self> {
        let socket = folder.join("disk.sock");
        let export = format!(
            "type=vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path={}",
            socket.display()
        );
        let mut command = Command::new(daemon);
        command.args([
            "--blockdev",
            "driver=null-co,node-name=n,size=1073741824,read-zeroes=off",
        ]);
        command.args(["--export", &export]).stdin(Stdio::null());
        let mut process = Process::start(&mut command)?;
        process.wait_until(|| socket.exists())?;
        let protocol = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        let mut connection = Connection::new(&socket, 1, protocol)?;
        let shared = Shared::new(1)?;
        let ring = Ring::new(&shared, 0, RING_SIZE, BLOCK as usize)?;
        for request in 0..BURST {
            let head = 3 * request;
            ring.describe(head, 16, false, Some(head + 1));
            ring.describe(head + 1, BLOCK, true, Some(head + 2));
            ring.describe(head + 2, 1, true, None);
            // VIRTIO_BLK_T_IN of sector 0.
            ring.write(head, &[0; 16]);
        }
        connection.start(&shared, &[&ring], &[0])?;
        Ok(NullDisk {
            process,
            _connection: connection,
            ring,
            _shared: shared,
        })
    }

    /// Processor time of it for each read of bursts.
    fn bursts(&mut self) -> io::Result<f64> {
        let before = self.process.cpu_ns()?;
        for _ in 0..BURSTS {
            for request in 0..BURST {
                self.ring.offer(3 * request);
            }
            self.ring.kick()?;
            for _ in 0..BURST {
                let head = self.ring.wait()?;
                let mut status = [1];
                self.ring.read(head + 2, &mut status);
                if status != [0] {
                    return Err(io::Error::other(format!("a read has status {status:?}")));
                }
            }
        }
        let after = self.process.cpu_ns()?;
        Ok((after - before) as f64 / (BURSTS * usize::from(BURST)) as f64)
    }
}

fn storage(
    bench: &Bench<'_>,
    cores: Cores,
    daemon: &Path,
    name: &str,
    results: &mut Results,
) -> io::Result<()> {
    let (mut session, mut disk) = bench.place.apart(cores, || {
        Ok((bench.setup.start()?, NullDisk::start(daemon, bench.folder)?))
    })?;
    let [ours, theirs] = by_turns(
        bench.rounds(40),
        [
            Box::new(|| bursts(&mut session).map(|ns| vec![ns])),
            Box::new(|| disk.bursts().map(|ns| vec![ns])),
        ],
    )?;
    results.add(
        name,
        "1/s",
        &per_second(&ours),
        Some((
            "qemu-storage-daemon's null-co, reads of 4 KiB",
            &per_second(&theirs),
        )),
        Target::Above(4.0),
        bench.place.describe(cores),
    );
    Ok(())
}

/// A whole SAVE, up to the answer of CHECK; the length of the state.
fn save(connection: &mut Connection) -> io::Result<usize> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    let other = connection.transfer(true, theirs)?;
    let mut file = other.unwrap_or_else(|| File::from(ours));
    let mut bytes = Vec::with_capacity(1 << 16);
    file.read_to_end(&mut bytes)?;
    connection.check()?;
    Ok(bytes.len())
}

fn small_state(
    bench: &Bench<'_>,
    daemon: &Path,
    name: &str,
    results: &mut Results,
) -> io::Result<()> {
    let socket = bench.folder.join("fs.sock");
    let share = bench.folder.join("share");
    std::fs::create_dir(&share)?;
    let (mut session, _process, mut fs) = bench.place.apart(Cores::One, || {
        let mut session = bench.setup.start()?;
        session.drain_with(64)?;
        session.stop()?;
        let mut command = Command::new(daemon);
        command
            .arg("--socket-path")
            .arg(&socket)
            .arg("--shared-dir")
            .arg(&share);
        command.args(["--sandbox", "none", "--log-level", "off"]);
        let mut process = Process::start(command.stdin(Stdio::null()))?;
        process.wait_until(|| socket.exists())?;
        let protocol = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::DEVICE_STATE;
        Ok((session, process, Connection::new(&socket, 2, protocol)?))
    })?;
    let length = save(&mut fs)?;
    let [ours, theirs] = by_turns(
        bench.rounds(20),
        [
            Box::new(|| times(100, || save(&mut session.connection).map(|_| ()))),
            Box::new(|| times(100, || save(&mut fs).map(|_| ()))),
        ],
    )?;
    let reference = Some(("virtiofsd's SAVE of a share without open files", &theirs));
    let pinning = bench.place.describe(Cores::One);
    results.add(name, "ns", &ours, reference, Target::Below(0.8), pinning);
    results.note(&format!("virtiofsd's state has {length} bytes"));
    Ok(())
}
