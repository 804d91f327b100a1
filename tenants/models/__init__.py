"""All models of this app, under one name."""

from tenants.models.audit import AuditEvent
from tenants.models.ids import new_id
from tenants.models.metering import UsageSegment
from tenants.models.quotas import RESOURCES, Quota
from tenants.models.tokens import ApiToken
from tenants.models.tree import Membership, Tenant
from tenants.models.users import User
from tenants.scope import TenantOwned

__all__ = [
    "RESOURCES",
    "ApiToken",
    "AuditEvent",
    "Membership",
    "Quota",
    "Tenant",
    "TenantOwned",
    "UsageSegment",
    "User",
    "new_id",
]
