"""Looking for the settings that are best within limits: of quantize by size and quality, of finetune by short runs."""
