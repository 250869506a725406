"""The settings: one module per room, `whole` reads them from TOML and the environment."""
