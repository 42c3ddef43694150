"""Models that the tests cache: authors and their books."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Author(models.Model):
    """Who writes books."""

    name = models.CharField(max_length=100)
    email = models.EmailField(unique=True, null=True, blank=True)
    born = models.DateField(null=True, blank=True)
    active = models.BooleanField(default=True)

    class Meta:
        """Order by name, so that lists compare."""

        ordering: ClassVar = ["name", "pk"]

    def __str__(self) -> str:
        return self.name


class PublishedManager(models.Manager["Book"]):
    """Only the books that are out."""

    def get_queryset(self) -> models.QuerySet[Book]:
        """Leave out what has no publication time."""
        return super().get_queryset().filter(published__isnull=False)


class Book(models.Model):
    """A book, with fields whose types a cache can spoil."""

    title = models.CharField(max_length=200)
    author = models.ForeignKey(Author, on_delete=models.CASCADE, related_name="books")
    editors = models.ManyToManyField(Author, related_name="edited", blank=True)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=0)
    published = models.DateTimeField(null=True, blank=True)
    uid = models.UUIDField(null=True, blank=True)
    extra = models.JSONField(default=dict, blank=True)

    objects = models.Manager["Book"]()
    out: ClassVar[PublishedManager] = PublishedManager()

    class Meta:
        """Order by title, so that lists compare."""

        ordering: ClassVar = ["title", "pk"]

    def __str__(self) -> str:
        return self.title
