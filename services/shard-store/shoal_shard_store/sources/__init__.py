"""Where models come from: a hub or URL, other shard-stores, a local folder.

    base.py    the two Protocols and what they share
    names.py   which names of repositories, files and hosts are safe
    web.py     byte ranges over HTTP: redirects, retries later, sizes and ETags that must agree
    hub.py     a Hugging Face hub, or any HTTP base URL
    folder.py  files of an allowed folder
    peer.py    blobs of another shard-store

Sources hand out bytes and say who sent them. They keep nothing and decide nothing.
"""
