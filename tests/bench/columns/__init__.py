"""What is measured: one module for each column, or group of columns, of the table."""

from columns.bloat import Bloat
from columns.idle import Idle
from columns.start import Start
from columns.switch import Switch
from columns.tcp import Tcp
from columns.udp_blocked import BlockedAtStart, BlockedInMidSession

# In the order of the table.
COLUMNS = [Tcp(), Start(), Idle(), Switch(), BlockedAtStart(), BlockedInMidSession(), Bloat()]
