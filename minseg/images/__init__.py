"""Pictures in and out: preprocessing recipes, cards, palettes, `Segmentation`."""
