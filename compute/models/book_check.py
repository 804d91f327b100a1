"""What the last check of the books found: one row for each invariant's check."""

from django.db import models


class BookCheck(models.Model):
    """Written by `services.books` alone, in a worker; pages read it. `samples` are the first violations, in words."""

    title = models.CharField(primary_key=True, max_length=200)
    position = models.PositiveSmallIntegerField()
    invariant = models.CharField(max_length=8)
    checked_at = models.DateTimeField()
    seconds = models.FloatField()
    violations = models.PositiveIntegerField()
    samples = models.JSONField(default=list)

    class Meta:
        ordering = ["position"]

    def __str__(self) -> str:
        return f"{self.invariant} {self.title}"
