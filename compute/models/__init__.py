"""Rows. They hold data and constraints; rules live in services, placement and sagas; `transitions` writes states."""

from compute.models.alarm import Alarm
from compute.models.allocation import Allocation, PinnedCpu
from compute.models.book_check import BookCheck
from compute.models.catalog import Flavor, Image, Keypair
from compute.models.decision import Decision, FlightFrame, HostRoster
from compute.models.domain import Domain
from compute.models.fence import Evacuation, Fence
from compute.models.grant import Grant, GrantLimit, GrantUse, SetAside
from compute.models.group import Group
from compute.models.host import Host, JoinToken
from compute.models.host_share import HostShare
from compute.models.hostcall import HostCall
from compute.models.instance import ConsoleLog, Instance
from compute.models.migration import Migration
from compute.models.network import Network, Port
from compute.models.operation import Operation
from compute.models.plan import Plan, PlanStep
from compute.models.pool import Pool
from compute.models.price import PRICED, Price

__all__ = [
    "PRICED",
    "Alarm",
    "Allocation",
    "BookCheck",
    "ConsoleLog",
    "Decision",
    "Domain",
    "Evacuation",
    "Fence",
    "Flavor",
    "FlightFrame",
    "Grant",
    "GrantLimit",
    "GrantUse",
    "Group",
    "Host",
    "HostCall",
    "HostRoster",
    "HostShare",
    "Image",
    "Instance",
    "JoinToken",
    "Keypair",
    "Migration",
    "Network",
    "Operation",
    "PinnedCpu",
    "Plan",
    "PlanStep",
    "Pool",
    "Port",
    "Price",
    "SetAside",
]
