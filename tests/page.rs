//! The test page in a real browser, where there is one.

mod common;

use common::browser::Browser;
use common::server::Server;
use serde_json::json;

#[test]
fn the_page_sends_what_is_typed_and_charts_what_comes_back() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Server::start(&[]);
    let url = format!("http://{}/any/path?and=query", server.address());
    let mut grounds = Vec::new();
    for (width, scheme) in [(400, "light"), (400, "dark"), (1200, "dark")] {
        browser.open(&url, width, scheme);
        browser.await_true("document.querySelector('#state')?.textContent === 'connected'");
        assert_eq!(browser.text("#url"), url.replace("http:", "ws:"));
        // Of its own accord it goes on, so that there is something to be seen.
        browser.await_true("Number(document.querySelector('#echoes').textContent) >= 2");
        browser.evaluate("document.querySelector('#repeat').click()");
        let typed = "<b>typed</b> &amp; wörtlich 🦀";
        browser.evaluate(&format!(
            "document.querySelector('#text').value = {}; document.querySelector('#send').click()",
            json!(typed)
        ));
        browser.await_true(&format!("document.querySelector('#log li').textContent.startsWith({})", json!(typed)));
        // All is drawn: a point for each echo, and what is not back yet is nothing.
        browser.await_true(
            "document.querySelector('#waiting').textContent === '0' && Number(document.querySelector('#echoes').textContent)
            === document.querySelector('#chart path').getAttribute('d').split('L').length",
        );
        assert_eq!(browser.evaluate("document.querySelectorAll('#chart text').length"), 3);
        assert!(browser.text("#median").ends_with(" ms"), "{}", browser.text("#median"));
        assert_eq!(browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), true, "at {width}");
        let overlaps = "[...document.querySelectorAll('#chart text')].map(it => it.getBoundingClientRect())
            .some((a, index, all) => a.left < 0 || all.slice(index + 1).some(b => a.bottom > b.top && b.bottom > a.top))";
        assert_eq!(browser.evaluate(overlaps), false, "labels overlap or are cut at {width}");
        grounds.push(browser.evaluate("getComputedStyle(document.body).backgroundColor"));
    }
    assert!(grounds[0] != grounds[1] && grounds[1] == grounds[2], "{grounds:?}");
    server.stop();
    browser.await_true("document.querySelector('#state').textContent === 'closed'");
    assert!(browser.text("#log li").contains("1001"), "{}", browser.text("#log li"));
    assert!(browser.complaints.is_empty(), "{:#?}", browser.complaints);
}
