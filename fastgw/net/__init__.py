"""The only owner of sockets: listeners, client and engine connections, their buffers and their deadlines."""
