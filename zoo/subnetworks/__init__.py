"""Nested subnetworks after REDS (Corti et al., "REDS: Resource-Efficient Deep Subnetworks", 2023).

The channels of each group are ordered once by importance (``zoo.importance``); a subnetwork keeps a prefix of every
group, so that the narrower ones lie inside the wider ones. What widths cost is tabulated (``costs``), those worth most
are chosen for each budget (``choosing``), and all subnetworks are trained together on shared weights (``training``).
Early exits on one trunk can go on from each other (``exits``).
"""

from zoo.subnetworks.choosing import SECONDS, Order, Weighing, choose_widths, least_fraction
from zoo.subnetworks.costs import UNITS as BUDGET_UNITS
from zoo.subnetworks.costs import Costs, count_costs, time_costs
from zoo.subnetworks.costs import Unit as BudgetUnit
from zoo.subnetworks.exits import Exits, deepest_within, exit_shares, train_exits, with_exits
from zoo.subnetworks.ladder import Ladder, Rung, check_fractions
from zoo.subnetworks.loss import JOINT_LOSSES, JointLoss
from zoo.subnetworks.orders import read_order, write_order
from zoo.subnetworks.training import Member, cut_member, train_jointly

__all__ = [
    "BUDGET_UNITS",
    "JOINT_LOSSES",
    "SECONDS",
    "BudgetUnit",
    "Costs",
    "Exits",
    "JointLoss",
    "Ladder",
    "Member",
    "Order",
    "Rung",
    "Weighing",
    "check_fractions",
    "choose_widths",
    "count_costs",
    "cut_member",
    "deepest_within",
    "exit_shares",
    "least_fraction",
    "read_order",
    "time_costs",
    "train_exits",
    "train_jointly",
    "with_exits",
    "write_order",
]
