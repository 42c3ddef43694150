"""The admin of airports and countries."""

from django.contrib import admin

from .models import Airport, Country


@admin.register(Country)
class CountryAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Countries by name."""

    list_display = ("name", "code")
    search_fields = ("name", "code")


@admin.register(Airport)
class AirportAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Airports by name."""

    list_display = ("name", "code", "city", "country", "elevation")
    list_select_related = ("country",)
    search_fields = ("name", "code", "city")
