"""The price book."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from django.core.validators import RegexValidator
from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.fields import Answer, Choice, Moment, StrictSerializer, Text
from cloud.api.pagination import page
from cloud.api.references import as_uuid
from cloud.api.routes import Call, Door, route
from compute.models import PRICED
from compute.selectors.lookup import find_flavor, find_pool
from compute.selectors.prices import list_prices
from compute.services.prices import end_price, set_price
from tenants.errors import InvalidInput, NotFound
from tenants.services.access import authorize

# A JSON number would be read as a binary fraction by many.
_MONEY: Final = RegexValidator(
    r"^[0-9]{1,7}(\.[0-9]{1,6})?\Z", "A price is a text such as 0.0125, with at most six places."
)


class PricedThingAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()


class PriceAnswer(Answer):
    operator_only = ("set_by",)

    id = serializers.UUIDField()
    resource = serializers.ChoiceField(PRICED)
    flavor = PricedThingAnswer(allow_null=True, help_text="null: every flavor without a price of its own")
    pool = PricedThingAnswer(allow_null=True, help_text="null: every pool without a price of its own")
    per_hour = serializers.DecimalField(max_digits=18, decimal_places=6)
    currency = serializers.CharField()
    valid_from = serializers.DateTimeField()
    valid_until = serializers.DateTimeField(allow_null=True)
    set_by = serializers.CharField()
    created_at = serializers.DateTimeField()


class PriceListQuery(StrictSerializer):
    history = Choice(["true", "false"], required=False, help_text="true: those that have ended as well")


class PriceCreateInput(StrictSerializer):
    resource = Choice(PRICED)
    per_hour = Text(max_length=20, validators=[_MONEY], help_text='a text, for example "0.0125"')
    currency = Text(max_length=3, help_text="three letters; the same in the whole book")
    flavor = Text(required=False, help_text="id or name")
    pool = Text(required=False, help_text="id or name")
    valid_from = Moment(required=False, help_text="a whole second in the future; the next one unless told")


class Prices(Door):
    @route("price_list", permission="price.read", query=PriceListQuery, page_of=PriceAnswer)
    def list(self, call: Call) -> Response:
        """Those that hold now or later, newest first. What names flavor and pool goes before flavor, pool, neither."""
        rows = list_prices(actor=call.actor, history=call.query.get("history") == "true")
        return page(call.request, rows, lambda row: call.render(PriceAnswer, row))

    @route("price_create", permission="price.update", body=PriceCreateInput, answer=PriceAnswer, status=201)
    def create(self, call: Call) -> Response:
        """Set a price from a time on; the one before ends there. The past cannot be changed. For operators."""
        authorize(call.actor, "price.update", None)
        fields = {**call.body, "per_hour": Decimal(call.body["per_hour"])}
        for name, find in (("flavor", find_flavor), ("pool", find_pool)):
            if name in fields:
                try:
                    fields[name] = find(fields[name])
                except NotFound as error:
                    raise InvalidInput.field(f"/{name}", "not_found", error.detail)
        price = set_price(actor=call.actor, **fields)
        return Response(call.render(PriceAnswer, price), status=201)

    @route("price_delete", permission="price.update", status=204, paths={"price_id": "id"})
    def destroy(self, call: Call, price_id: str) -> Response:
        """End a price with the next second, or withdraw one that has not begun: the one before goes on. For operators."""
        end_price(actor=call.actor, price_id=as_uuid(price_id))
        return Response(status=204)
