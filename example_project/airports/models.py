"""Airports of the world."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Country(models.Model):
    """A country with at least one airport."""

    code = models.CharField("ISO 3166-1 code", max_length=2, unique=True)
    name = models.CharField(max_length=100)

    objects: ClassVar[models.Manager[Country]] = models.Manager()

    class Meta:
        """By name."""

        ordering = ("name",)
        verbose_name_plural = "countries"

    def __str__(self) -> str:
        return self.name


class Airport(models.Model):
    """An airport that has an IATA code."""

    code = models.CharField("IATA code", max_length=3, unique=True)
    icao = models.CharField("ICAO code", max_length=4)
    name = models.CharField(max_length=200)
    city = models.CharField(max_length=200, blank=True)
    region = models.CharField(max_length=200, blank=True)
    country = models.ForeignKey(Country, on_delete=models.CASCADE, related_name="airports")
    elevation = models.IntegerField(help_text="feet above the sea")
    latitude = models.FloatField()
    longitude = models.FloatField()

    objects: ClassVar[models.Manager[Airport]] = models.Manager()

    class Meta:
        """By name."""

        ordering = ("name",)

    def __str__(self) -> str:
        return f"{self.name} ({self.code})"
