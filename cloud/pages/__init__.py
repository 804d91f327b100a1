"""What the two doors for people (portal and console) share: guards, paging, forms, live fragments. Knows neither door."""
