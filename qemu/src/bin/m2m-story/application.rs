//! What the machine's application does, as scripts for its shell.

use m2m_lab::addresses::{INTRANET_NAME, INTRANET_V4};

/// Fetches a page by bash alone; no image has to have an HTTP client for it.
pub(crate) fn fetch(host: &str) -> String {
    format!(
        "exec 3<>/dev/tcp/{host}/80 || exit 1
printf 'GET / HTTP/1.1\\r\\nHost: {INTRANET_NAME}\\r\\nConnection: close\\r\\n\\r\\n' >&3
timeout 10 cat <&3"
    )
}

/// Pings until the first answer and leaves the time since the kernel's start in a file.
pub(crate) fn ping_until_answered() -> String {
    format!(
        "rm -f /run/m2mvpn-lab.ping
(until ping -c 1 -W 1 {INTRANET_V4} >/dev/null 2>&1; do sleep 0.1; done
cut -d ' ' -f 1 /proc/uptime >/run/m2mvpn-lab.ping) >/dev/null 2>&1 </dev/null &"
    )
}

/// Traffic that does not stop: a stream by TCP that is opened again when it breaks, and datagrams to the company's network and
/// past it.
pub(crate) fn start_traffic() -> String {
    format!(
        "(while true; do
    (exec 3<>/dev/tcp/{INTRANET_V4}/80 && printf 'GET /stream HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3 && timeout 5 cat <&3)
    sleep 0.1
done) >/dev/null 2>&1 </dev/null &
echo $! >/run/m2mvpn-lab.traffic
(while true; do
    echo plain >/dev/udp/{INTRANET_V4}/9
    echo plain >/dev/udp/198.51.100.99/9
    echo plain >/dev/udp/fd20::80/9
    sleep 0.1
done) >/dev/null 2>&1 </dev/null &
echo $! >>/run/m2mvpn-lab.traffic"
    )
}

/// Ends what [`start_traffic`] started.
pub(crate) const STOP_TRAFFIC: &str = "kill $(cat /run/m2mvpn-lab.traffic)";

/// Everything that an application, or an intruder with root, may try in order to get a packet out beside the tunnel. Each
/// attempt may fail; the capture says whether one got through.
pub(crate) const ATTEMPTS: &str = "
uplink=$(ip route show default | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p' | head -n 1)
try() { timeout 2 \"$@\" >/dev/null 2>&1 </dev/null; }
try bash -c 'echo x >/dev/tcp/203.0.113.10/443'
try bash -c 'echo x >/dev/tcp/203.0.113.10/80'
try bash -c 'echo x >/dev/tcp/198.51.100.10/443'
try bash -c 'echo x >/dev/udp/198.51.100.10/443'
try bash -c 'echo x >/dev/udp/198.51.100.99/9'
try bash -c 'echo x >/dev/udp/192.0.2.1/53'
try bash -c 'echo x >/dev/udp/192.0.2.1/123'
try bash -c 'echo x >/dev/udp/2001:db8:2::10/443'
try bash -c 'echo x >/dev/tcp/2001:db8:3::10/443'
try nslookup intranet.corp.example 192.0.2.1
try nslookup gateway.example 192.0.2.1
try ping -c 1 -W 1 192.0.2.1
try ping -c 1 -W 1 198.51.100.10
try ping -c 1 -W 1 -I \"$uplink\" 10.20.0.80
try ping -6 -c 1 -W 1 -I \"$uplink\" ff02::1
try ping -6 -c 1 -W 1 2001:db8:1::1
true";

/// What the page must contain.
pub(crate) fn shows(page: &str, token: &str) -> bool {
    page.contains("HTTP/1.1 200") && page.contains(token)
}
