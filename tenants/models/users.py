"""People who log in."""

from __future__ import annotations

import re
from typing import Final

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.core.validators import RegexValidator
from django.db import models
from django.db.models.functions import Lower

from tenants.models.ids import new_id

USERNAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


class UserManager(BaseUserManager["User"]):
    def get_by_natural_key(self, username: str | None) -> User:
        """Log-in is blind to upper and lower case, as the unique constraint is."""
        return self.get(username__iexact=username or "")


class User(AbstractBaseUser):
    """A person or a service account. `is_operator`: one of the cloud's operators, who see and may do everything."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    username = models.CharField(max_length=64, unique=True, validators=[RegexValidator(rf"^{USERNAME.pattern}\Z")])
    email = models.EmailField(blank=True, default="")
    is_operator = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = UserManager()

    USERNAME_FIELD = "username"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS = []

    class Meta:
        ordering = ["username"]
        constraints = [models.UniqueConstraint(Lower("username"), name="user_username_unique")]

    def __str__(self) -> str:
        return self.username

    # Django's admin site asks these; operators are its only users.
    @property
    def is_staff(self) -> bool:
        return self.is_active and self.is_operator

    @property
    def is_superuser(self) -> bool:
        return self.is_active and self.is_operator

    def has_perm(self, perm: str, obj: object = None) -> bool:
        return self.is_staff

    def has_perms(self, perm_list: list[str], obj: object = None) -> bool:
        return self.is_staff

    def has_module_perms(self, app_label: str) -> bool:
        return self.is_staff
