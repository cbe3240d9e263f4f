//! TCP throughput and round trips between two network namespaces, of several kinds of link in turns.
//!
//! Turns are short, alternate and begin with another kind each time, because a machine that is shared changes its pace by a
//! factor within seconds. So the ratio that counts is the median of the ratios of turns of the same round: what slows one
//! of them down slows the others down as well.
//!
//! With both ends on one core a turn shows what a byte and an exchange cost the processor, all of it, and varies little.
//! With a core for each end it shows above all how fast one core wakes the other, which on a virtual machine varies by a
//! factor of four.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long each turn of throughput, and each of round trips, lasts.
const SPELL: Duration = Duration::from_millis(40);
const PIECE: usize = 256 << 10;
/// Ends what is sent, and asks for one byte in return.
const LAST: u8 = 1;

/// Two ends of one kind.
pub(crate) struct Link {
    pub(crate) what: String,
    /// Network namespaces: files.
    pub(crate) from: PathBuf,
    pub(crate) to: PathBuf,
    /// Of the far end.
    pub(crate) address: IpAddr,
}

/// What one kind got through, by round: gigabits a second, and exchanges of one byte a second.
struct Measured {
    what: String,
    stream: TcpStream,
    rounds: [Vec<f64>; 2],
}

/// Runs in a network namespace: what is opened there stays there.
pub(crate) fn inside<T: Send + 'static>(namespace: PathBuf, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = File::open(&namespace).unwrap_or_else(|error| panic!("{}: {error}", namespace.display()));
    let thread = std::thread::spawn(move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work()
    });
    thread.join().unwrap()
}

/// Where an end runs is not left to the scheduler, as that would be most of what is seen.
fn on_core(core: usize) {
    let mut set = nix::sched::CpuSet::new();
    set.set(core).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).unwrap();
}

/// The far end: takes what comes, and answers when it has come to an end.
fn serve(mut stream: TcpStream, core: usize) {
    stream.set_nodelay(true).unwrap();
    std::thread::spawn(move || {
        on_core(core);
        let mut buffer = vec![0; PIECE];
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            if buffer[len - 1] == LAST && stream.write_all(&[LAST]).is_err() {
                return;
            }
        }
    });
}

impl Measured {
    fn connect(link: &Link, far_core: usize) -> Self {
        let address = link.address;
        let listener = inside(link.to.clone(), move || TcpListener::bind((address, 0)).unwrap());
        let port = listener.local_addr().unwrap().port();
        let stream = inside(link.from.clone(), move || TcpStream::connect((address, port)).unwrap());
        serve(listener.accept().unwrap().0, far_core);
        stream.set_nodelay(true).unwrap();
        Self { what: link.what.clone(), stream, rounds: [Vec::new(), Vec::new()] }
    }

    fn exchange(&mut self) {
        self.stream.write_all(&[LAST]).unwrap();
        self.stream.read_exact(&mut [0; 1]).unwrap();
    }

    fn turn(&mut self, data: &[u8]) {
        let (started, mut sent) = (Instant::now(), 0);
        while started.elapsed() < SPELL {
            sent += self.stream.write(data).unwrap();
        }
        // What is still on its way counts when it has arrived.
        self.exchange();
        self.rounds[0].push(sent as f64 * 8.0 / started.elapsed().as_secs_f64() / 1e9);
        let (started, mut count) = (Instant::now(), 0_u32);
        while started.elapsed() < SPELL {
            self.exchange();
            count += 1;
        }
        self.rounds[1].push(f64::from(count) / started.elapsed().as_secs_f64());
    }
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Measures the links in turns and prints two tables: best and median of each figure, and its ratio, the first link's to
/// the row's: of the best, and the median of the rounds'.
pub(crate) fn compare(title: &str, links: &[Link], rounds: usize) {
    let last_core = std::thread::available_parallelism().unwrap().get() - 1;
    on_core(0);
    for (far_core, cores) in [(0, "both ends on one core"), (last_core, "a core for each end")] {
        let all = measure(links, far_core, rounds);
        let name = &all[0].what;
        println!(
            "| {title}, {cores}, {rounds} rounds | Gbit/s: best, median | {name} to it | exchanges/s | {name} to it |"
        );
        println!("|---|---|---|---|---|");
        all.iter().for_each(|link| println!("{}", row(link, &all[0])));
        println!();
    }
}

fn measure(links: &[Link], far_core: usize, rounds: usize) -> Vec<Measured> {
    let mut all: Vec<Measured> = links.iter().map(|link| Measured::connect(link, far_core)).collect();
    let data = vec![0; PIECE];
    for round in 0..=rounds {
        let begin = round % all.len();
        let (later, first) = all.split_at_mut(begin);
        first.iter_mut().chain(later).for_each(|link| link.turn(&data));
        if round == 0 {
            // The connections have opened their windows.
            all.iter_mut().for_each(|link| link.rounds = [Vec::new(), Vec::new()]);
        }
    }
    all
}

fn row(link: &Measured, ours: &Measured) -> String {
    let best = |of: &[f64]| of.iter().copied().fold(0.0, f64::max);
    let cells = link.rounds.iter().zip(&ours.rounds).zip([1, 0]).map(|((its, ours), digits)| {
        let paired = median(ours.iter().zip(its).map(|(ours, its)| ours / its));
        let (top, middle) = (best(its), median(its.iter().copied()));
        format!("{top:.digits$}, {middle:.digits$} | {:.2}, {paired:.2}", best(ours) / top)
    });
    format!("| {} | {} |", link.what, cells.collect::<Vec<_>>().join(" | "))
}
