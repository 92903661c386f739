use std::io::{BufRead, IsTerminal, Write};

use m2m_lab::Lab;

use crate::story::Story;

/// Tells how to reach everything, gives a shell in the device, and waits for Ctrl-C.
pub(crate) fn until_interrupted(story: &mut Story) {
    if !story.machine.is_on()
        && let Err(error) = story.machine.power_on()
    {
        eprintln!("the device does not start: {error}");
    }
    println!("\nThe lab is left running. From another root shell on this machine:\n");
    let [_, monitor] = story.machine.sockets();
    let manager = story.lab.shell_prefix(&story.lab.topology().manager);
    let (program, configuration) = (story.manager.program(), story.manager.configuration().display());
    println!("  device's console     tail -f {}", story.machine.console_path().display());
    println!("  QEMU's monitor       {} (QMP)", monitor.display());
    println!("  manager's commands   {manager} {program} --config {configuration} device list");
    println!("  manager's API        https://203.0.113.10/ from any host below, such as /.well-known/est/cacerts");
    println!("  gateway's sessions   http://127.0.0.1:9184/sessions from the host gateway");
    println!("  logs                 ls {}", story.lab.outside("/run/lab").display());
    nodes(&story.lab);
    if std::io::stdin().is_terminal() {
        println!("\nWhat you type here runs as root in the device, for example: vpnctl status");
        device_shell(story);
    }
    wait();
}

/// Prints how to get into each host of the lab.
pub(crate) fn nodes(lab: &Lab) {
    let topology = lab.topology();
    for node in [
        &topology.device,
        &topology.internet,
        &topology.gateway,
        &topology.gateway2,
        &topology.manager,
        &topology.company,
    ] {
        println!("  host {:<15} {} bash", node.name(), lab.shell_prefix(node));
    }
}

/// Waits until a signal ends this process, and the lab with it.
pub(crate) fn wait() -> ! {
    println!("\nCtrl-C ends the lab; nothing stays behind.");
    loop {
        std::thread::park();
    }
}

fn device_shell(story: &mut Story) {
    let prompt = || {
        print!("device# ");
        let _ = std::io::stdout().flush();
    };
    prompt();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match story.machine.shell(&line) {
            Ok(output) => print!("{}", output.stdout),
            Err(error) => println!("{error}"),
        }
        prompt();
    }
}
