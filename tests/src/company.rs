use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, ensure};
use m2m_lab::{
    Daemon, Gateway, Lab, LabOptions, Manager, ManagerOptions, Policy,
    addresses::{GATEWAY_NAME, GATEWAY2_NAME, INTRANET_V4, INTRANET_V6},
    wait_until,
};

/// Time within which anything that a test waits for has to happen, on a slow machine too.
pub const LIMIT: Duration = Duration::from_secs(60);

const FETCH_LIMIT: Duration = Duration::from_secs(3);

/// A lab with a manager and a gateway.
#[derive(Debug)]
pub struct Company {
    /// The gateway, running.
    pub gateway: Gateway,
    /// The manager, running.
    pub manager: Manager,
    /// The lab.
    pub lab: Lab,
}

impl Company {
    /// Starts lab, manager and gateway. The manager accepts the TPMs of the lab's maker.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn open() -> anyhow::Result<Self> {
        let company = Self::open_to_nobody(&ManagerOptions::default())?;
        company.accept_makers_tpms()?;
        Ok(company)
    }

    /// As [`Company::open`], with a second gateway in the same site, which devices take when the first one does not answer, and
    /// routing daemons between both and the company.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn open_with_two_gateways() -> anyhow::Result<(Self, Gateway)> {
        let gateways = [GATEWAY_NAME, GATEWAY2_NAME].map(str::to_owned).to_vec();
        let options = ManagerOptions { gateways, ..ManagerOptions::default() };
        let company = Self::start(LabOptions { routing: true, ..LabOptions::default() }, &options)?;
        company.accept_makers_tpms()?;
        let mut second = company.lab.second_gateway(&company.manager)?;
        second.start()?;
        Ok((company, second))
    }

    /// As [`Company::open`], with a manager that knows no TPM and no maker.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn open_to_nobody(options: &ManagerOptions) -> anyhow::Result<Self> {
        Self::start(LabOptions::default(), options)
    }

    fn start(lab: LabOptions, options: &ManagerOptions) -> anyhow::Result<Self> {
        let lab = Lab::start(lab)?;
        let mut manager = lab.manager(options)?;
        manager.start()?;
        let mut gateway = lab.gateway(&manager)?;
        gateway.start()?;
        Ok(Self { gateway, manager, lab })
    }

    fn accept_makers_tpms(&self) -> anyhow::Result<()> {
        // The maker's CA comes with the first TPM.
        self.lab.tpm("first-of-its-maker")?;
        Ok(self.manager.accept_ek_ca(&self.lab.ek_ca_file()?, &[])?)
    }

    /// A device with a TPM and this company's first-boot file; it does not run yet.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn device(&self, name: &str) -> anyhow::Result<Daemon> {
        let device = self.lab.daemon(name, Some(self.lab.tpm(name)?))?;
        device.set_manager(&self.manager)?;
        Ok(device)
    }

    /// A device as [`Company::device`] makes it, started, with its tunnel up.
    ///
    /// # Errors
    /// When the name is taken or there is no tunnel within [`LIMIT`].
    pub fn connected_device(&self, name: &str) -> anyhow::Result<Daemon> {
        let mut device = self.device(name)?;
        device.start()?;
        device.wait_for_state("Connected", LIMIT)?;
        Ok(device)
    }

    /// Fetches the company's page through the tunnel of a device, over one address family.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn fetch(&self, device: &Daemon, server: IpAddr) -> anyhow::Result<()> {
        let page = device.device().node.within(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(server, 80), FETCH_LIMIT)?;
            stream.set_read_timeout(Some(FETCH_LIMIT))?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: intranet.corp.example\r\n\r\n")?;
            let mut page = String::new();
            stream.read_to_string(&mut page)?;
            Ok(page)
        })?;
        let page = page.with_context(|| format!("cannot reach {server}"))?;
        ensure!(page.contains(self.lab.web().token()), "the page is {page:?}");
        Ok(())
    }

    /// Fetches the page over IPv4 and IPv6.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn fetch_both(&self, device: &Daemon) -> anyhow::Result<()> {
        self.fetch(device, INTRANET_V4.into())?;
        self.fetch(device, INTRANET_V6.into())
    }

    /// Waits until the page can be fetched over both families.
    ///
    /// # Errors
    /// The last failure, when it does not succeed within [`LIMIT`].
    pub fn wait_for_page(&self, device: &Daemon) -> anyhow::Result<()> {
        let mut last = Ok(());
        let waited = wait_until("the company's page", LIMIT, || {
            last = self.fetch_both(device);
            last.is_ok()
        });
        last?;
        Ok(waited?)
    }

    /// Fails when the capture of the device link has a packet that must not be there.
    ///
    /// # Errors
    /// With the packets.
    pub fn audit(&mut self) -> anyhow::Result<()> {
        let leaks = self.lab.capture()?.audit(&Policy::lab())?;
        let shown: Vec<_> = leaks.iter().take(10).map(ToString::to_string).collect();
        ensure!(leaks.is_empty(), "{} packets leaked:\n{}", leaks.len(), shown.join("\n"));
        Ok(())
    }
}
