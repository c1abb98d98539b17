"""One XA file to subtracted frames: header, pixel values, mask, text burned into the image."""
