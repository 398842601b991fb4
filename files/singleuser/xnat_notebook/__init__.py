"""What a notebook server shows of XNAT; installed into the single-user image."""
