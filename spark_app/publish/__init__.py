"""KPIs of the dates that changed: computed, audited, published."""
