use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

fn config(ipv4: &str, book: Option<&Path>) -> config::Pool {
    let ranges = config::Ranges { ipv4: ipv4.parse().ok(), ipv6: None };
    config::Pool { ranges, gateway: 1, reserved: 1, book: book.map(Path::to_owned) }
}

fn own(directory: &Path) -> Result<AddressBook, BookError> {
    AddressBook::open(directory, &config("10.99.0.0/28", None))
}

/// A shared book, made as an administrator makes it.
fn shared_file(directory: &Path) -> PathBuf {
    let file = directory.join("addresses.json");
    std::fs::write(&file, r#"{"version":1,"devices":{}}"#).unwrap();
    file
}

fn shared(file: &Path) -> AddressBook {
    AddressBook::open(Path::new("/nonexistent"), &config("10.99.0.0/16", Some(file))).unwrap()
}

fn device(number: usize) -> Token {
    format!("dev-{number}").parse().unwrap()
}

#[tokio::test]
async fn addresses_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let book = Arc::new(own(directory.path()).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..10 {
        let book = Arc::clone(&book);
        tasks.spawn(async move { (number, book.assign(&device(number)).await.unwrap()) });
    }
    let given = tasks.join_all().await;
    let again = own(directory.path()).unwrap();
    assert_eq!(again.usage(), (10, 13));
    for (number, addresses) in given {
        assert_eq!(again.assign(&device(number)).await.unwrap(), addresses);
    }
}

#[tokio::test]
async fn a_new_device_is_refused_while_the_file_cannot_be_written_and_old_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let book = own(&state).unwrap();
    let old = "old".parse().unwrap();
    let addresses = book.assign(&old).await.unwrap();
    std::fs::rename(&state, directory.path().join("away")).unwrap();
    assert!(matches!(book.assign(&"new".parse().unwrap()).await, Err(AssignError::Lock { .. })));
    assert_eq!(book.assign(&old).await.unwrap(), addresses);
    std::fs::rename(directory.path().join("away"), &state).unwrap();
    assert!(book.assign(&"new".parse().unwrap()).await.is_ok());
    assert_eq!(own(&state).unwrap().usage().0, 2);
}

#[test]
fn a_damaged_file_is_no_reason_to_start_over() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("addresses.json"), "{\"version\":1,\"dev").unwrap();
    let error = own(directory.path()).unwrap_err().to_string();
    assert!(error.contains("addresses.json") && error.contains("backup"), "{error}");
}

#[tokio::test]
async fn an_own_file_that_is_lost_is_written_again_and_a_shared_one_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("addresses.json");
    let book = own(directory.path()).unwrap();
    let first = book.assign(&device(1)).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    book.assign(&device(2)).await.unwrap();
    assert_eq!(own(directory.path()).unwrap().assign(&device(1)).await.unwrap(), first);

    let book = shared(&file);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(book.assign(&device(1)).await.unwrap(), first);
    let error = book.assign(&device(3)).await.unwrap_err().to_string();
    assert!(error.contains("mounted") && !file.exists(), "{error}");
    let error = AddressBook::open(directory.path(), &config("10.99.0.0/16", Some(&file))).unwrap_err().to_string();
    assert!(error.contains("mounted"), "{error}");
}

#[tokio::test]
async fn what_is_taken_out_of_the_file_is_free_for_others() {
    let directory = tempfile::tempdir().unwrap();
    let file = shared_file(directory.path());
    let (one, other) = (shared(&file), shared(&file));
    let former = one.assign(&device(1)).await.unwrap();
    std::fs::write(&file, r#"{"version":1,"devices":{}}"#).unwrap();
    assert_eq!(other.assign(&device(2)).await.unwrap(), former);
    // The first gateway looks at the file before it gives the first device an address that is another's now.
    let end = Instant::now() + LIMIT;
    while one.assign(&device(1)).await.unwrap() == former {
        assert!(Instant::now() < end, "the change is not noticed");
        tokio::task::yield_now().await;
    }
    assert_eq!(one.assign(&device(2)).await.unwrap(), former);
}

#[tokio::test]
async fn a_gateways_number_that_a_device_has_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let file = shared_file(directory.path());
    let second = config::Pool { gateway: 2, reserved: 2, ..config("10.99.0.0/16", Some(&file)) };
    let second = AddressBook::open(directory.path(), &second).unwrap();
    assert_eq!(second.gateway().ipv4, "10.99.0.2".parse().ok());
    shared(&file).assign(&device(1)).await.unwrap();
    let error = second.assign(&device(2)).await.unwrap_err().to_string();
    assert!(error.contains("device dev-1 has the number 2, expected at least 3"), "{error}");
}

/// The runtime has one thread: if it waited, nothing here would go on.
#[tokio::test(flavor = "current_thread")]
async fn a_lock_that_is_held_delays_only_new_devices_and_not_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let file = shared_file(directory.path());
    let mut book = shared(&file);
    let old = book.assign(&device(1)).await.unwrap();
    let holder = BookFile::new(file);
    let held = holder.lock(Instant::now()).unwrap();
    book.wait = Duration::from_millis(500);
    let begun = Instant::now();
    let (second, third) = (device(2), device(3));
    let new = async { tokio::join!(book.assign(&second), book.assign(&third)) };
    let known = async {
        let mut assigned = 0;
        while begun.elapsed() < Duration::from_millis(200) {
            assert_eq!(book.assign(&device(1)).await.unwrap(), old);
            assigned += 1;
            tokio::task::yield_now().await;
        }
        assigned
    };
    let (refused, assigned) = tokio::join!(new, known);
    assert!(assigned > 100, "{assigned}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for refused in [refused.0, refused.1] {
        assert!(matches!(refused, Err(AssignError::Lock { .. } | AssignError::Late { .. })), "{refused:?}");
    }
    drop(held);
    book.wait = WAIT;
    assert!(book.assign(&device(3)).await.is_ok());
}

/// Every device at every gateway: threads of two gateways per process in several processes, in different orders.
#[test]
fn gateways_of_one_site_agree() {
    if let Some(file) = std::env::var_os(CHILD) {
        return child(Path::new(&file));
    }
    const PROCESSES: usize = 3;
    let directory = tempfile::tempdir().unwrap();
    let file = shared_file(directory.path());
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "address_book::tests::gateways_of_one_site_agree", "--nocapture"])
                .env(CHILD, &file)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut given = BTreeMap::<usize, HashSet<IpAddr>>::new();
    let mut answers = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        for (number, address) in text.lines().filter_map(|line| line.split_once("given ")?.1.split_once(' ')) {
            given.entry(number.parse().unwrap()).or_default().insert(address.parse().unwrap());
            answers += 1;
        }
    }
    assert_eq!(answers, PROCESSES * GATEWAYS * DEVICES);
    assert_eq!(given.len(), DEVICES);
    assert!(given.values().all(|addresses| addresses.len() == 1), "{given:?}");
    let unique: HashSet<_> = given.values().flatten().collect();
    assert_eq!(unique.len(), DEVICES, "{given:?}");
    let again = shared(&file);
    for (number, addresses) in given {
        let address = again.shelf.memory().pool.find(&device(number)).unwrap().iter().next();
        assert!(addresses.contains(&address.unwrap()));
    }
}

const CHILD: &str = "M2M_GATEWAY_TEST_BOOK";
const GATEWAYS: usize = 2;
const DEVICES: usize = 60;

fn child(file: &Path) {
    let threads: Vec<_> = (0..GATEWAYS)
        .map(|gateway| {
            let file = file.to_owned();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(connect_all(Arc::new(shared(&file)), gateway))
            })
        })
        .collect();
    for (number, addresses) in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
        println!("given {number} {}", addresses.ipv4.unwrap());
    }
}

/// Ten devices at a time.
async fn connect_all(book: Arc<AddressBook>, gateway: usize) -> Vec<(usize, Addresses)> {
    let start = usize::try_from(std::process::id()).unwrap() * 7 + gateway * 13;
    let mut given = Vec::new();
    for first in (0..DEVICES).step_by(10) {
        let mut tasks = tokio::task::JoinSet::new();
        for number in first..first + 10 {
            let (book, number) = (Arc::clone(&book), (start + number * 11) % DEVICES);
            tasks.spawn(async move { (number, book.assign(&device(number)).await.unwrap()) });
        }
        given.extend(tasks.join_all().await);
    }
    given
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_device_has_one_address_at_all_gateways_and_no_other_has_it(
        steps in prop::collection::vec((0..3_usize, 0..20_usize, prop::bool::weighted(0.1)), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = shared_file(directory.path());
        let open = || AddressBook::open(directory.path(), &config("10.99.0.0/28", Some(&file))).unwrap();
        let mut books = [open(), open(), open()];
        let mut seen = BTreeMap::<usize, Addresses>::new();
        for (gateway, number, restart) in steps {
            if restart {
                books[gateway] = open();
            }
            match runtime.block_on(books[gateway].assign(&device(number))) {
                Ok(addresses) => prop_assert_eq!(*seen.entry(number).or_insert(addresses), addresses),
                Err(error) => {
                    prop_assert!(matches!(error, AssignError::Exhausted(_)), "{error}");
                    prop_assert_eq!(seen.len(), 13);
                    prop_assert!(!seen.contains_key(&number));
                }
            }
            let unique: HashSet<_> = seen.values().flat_map(Addresses::iter).collect();
            prop_assert_eq!(unique.len(), seen.len());
        }
    }
}
