"""How the outside sees that we are well: probes, their report, who may ask. Knows nothing of the product."""
