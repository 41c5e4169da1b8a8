"""The stages of ``compress``, one file each, in the order of the flow."""
