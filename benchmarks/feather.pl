# A server that costs next to nothing: it answers each HTTP request with 200 immediately.
use IO::Socket::INET;
my $listen = IO::Socket::INET->new(LocalPort => 8888, Listen => 64, ReuseAddr => 1) or die "port 8888: $!";
while (my $client = $listen->accept) {
    while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/ }
    print $client "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    close $client;
}
