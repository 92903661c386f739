//! `m2m-image` on small images that the test makes.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gpt::partition_types::{EFI, LINUX_FS};

const FIRST_BOOT: &str = r#"version = 1
[manager]
url = "https://manager.example"
trust_anchor = """
-----BEGIN CERTIFICATE-----
MAA=
-----END CERTIFICATE-----
"""
[device]
label = "batch-1"
[[uplink]]
match = "en*"
method = "dhcp"
"#;

/// A disk with an EFI system partition that holds one kernel image, and a root partition.
struct Image {
    directory: tempfile::TempDir,
    esp: (u64, u64),
}

impl Image {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.img");
        let file = std::fs::File::create_new(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        drop(file);
        let mut table = gpt::GptConfig::new().writable(true).create(&path).unwrap();
        let esp = table.add_partition("m2mvpn-esp", 4 << 20, EFI, 0, Some(2048)).unwrap();
        table.add_partition("m2mvpn-root-a", 1 << 20, LINUX_FS, 0, Some(2048)).unwrap();
        let partition = &table.partitions()[&esp];
        let esp = (partition.first_lba * 512, partition.last_lba * 512 + 512);
        table.write().unwrap();
        let image = Self { directory, esp };

        let mut bytes = std::io::Cursor::new(vec![0; usize::try_from(image.esp.1 - image.esp.0).unwrap()]);
        fatfs::format_volume(&mut bytes, fatfs::FormatVolumeOptions::new()).unwrap();
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(image.esp.0)).unwrap();
        file.write_all(bytes.get_ref()).unwrap();
        image
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("disk.img")
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// All bytes of the image that are not of the EFI system partition.
    fn outside_esp(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        std::fs::File::open(self.path()).unwrap().read_to_end(&mut bytes).unwrap();
        let esp = usize::try_from(self.esp.0).unwrap()..usize::try_from(self.esp.1).unwrap();
        bytes.drain(esp);
        bytes
    }

    fn report(&self) -> serde_json::Value {
        let output = m2m_image(&["inspect", "--json"], &[&self.path()]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn m2m_image(words: &[&str], paths: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_m2m-image")).args(words).args(paths).output().unwrap()
}

#[test]
fn a_first_boot_file_is_set_and_replaced_and_nothing_else_changes() {
    let image = Image::new();
    let before = image.outside_esp();
    assert_eq!(image.report()["first_boot"]["state"], "missing");

    for host in ["https://manager.example", "https://192.0.2.1:8443"] {
        let file = image.write("first-boot.toml", &FIRST_BOOT.replace("https://manager.example", host));
        let output = m2m_image(&["set-first-boot"], &[&image.path(), &file]);
        assert!(output.status.success(), "{output:?}");
        let report = image.report();
        assert_eq!(report["first_boot"]["state"], "valid");
        assert_eq!(report["first_boot"]["content"]["manager"]["url"], host);
        assert_eq!(report["partitions"][0]["name"], "m2mvpn-esp");
    }
    assert_eq!(image.outside_esp(), before);
}

#[test]
fn a_wrong_file_is_refused_with_its_place_and_the_image_stays() {
    let image = Image::new();
    let file = image.write("wrong.toml", &FIRST_BOOT.replace("method = \"dhcp\"", "method = \"magic\""));
    let whole = std::fs::read(image.path()).unwrap();
    for output in [m2m_image(&["check"], &[&file]), m2m_image(&["set-first-boot"], &[&image.path(), &file])] {
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text.contains("wrong.toml:13: uplink[0].method:") && text.contains("dhcp"), "{text}");
    }
    assert_eq!(std::fs::read(image.path()).unwrap(), whole);

    let right = image.write("right.toml", FIRST_BOOT);
    assert!(m2m_image(&["check"], &[&right]).status.success());
}

#[test]
fn a_wrong_file_that_is_already_there_is_reported() {
    let image = Image::new();
    let disk = m2m_image::Disk::open(&image.path(), true).unwrap();
    m2m_image::Esp::open(&disk).unwrap().set_first_boot("version = 2\n").unwrap();
    let report = image.report();
    assert_eq!(report["first_boot"]["state"], "invalid");
    assert!(report["first_boot"]["error"].as_str().unwrap().contains("version"), "{report}");
}

#[test]
fn an_image_that_was_cut_off_is_refused() {
    let image = Image::new();
    std::fs::OpenOptions::new().write(true).open(image.path()).unwrap().set_len(2 << 20).unwrap();
    let output = m2m_image(&["inspect"], &[&image.path()]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("disk.img"), "{text}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = m2m_image(&["inspect"], &[Path::new("/nonexistent/disk.img")]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nonexistent/disk.img"));
    let output = m2m_image(&["check"], &[Path::new("/nonexistent/first-boot.toml")]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nonexistent/first-boot.toml"));
}
